"""Make ``wheel_architectures.json`` from the wheels that ``locks/`` names.

    python -m planner.wheel_architectures

downloads the wheels (about 350 MB; their hashes are checked against the lock), reads for which
architectures their kernels were compiled and rewrites the table. To be run when a lock changes; a
test tells when that was forgotten.

The layout of a fat binary is not published by NVIDIA. What is read here is what
https://github.com/jiegec/fatbinary documents, and was checked against the cubins themselves: every
one of them, decompressed, names the architecture that its entry in the table of contents states.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from planner.declared import Flavour

HERE: Final = Path(__file__).parent
LOCKS: Final = HERE.parent / "locks"
PACKAGES: Final[dict[Flavour, str]] = {"cuda12": "mlx-cuda-12", "cuda13": "mlx-cuda-13"}
LIBRARY: Final = "mlx/lib/libmlx.so"
MACHINES: Final = ("x86_64", "aarch64")

CONTAINER_MAGIC: Final = 0xBA55ED50
CONTAINER: Final = struct.Struct("<IHHQ")  # magic, version, header's size, size of what follows
# kind, ?, header's size, size, ?, ?, minor, major, architecture, ?, ?, flags
ENTRY: Final = struct.Struct("<HHIQIIHHIIIQ")
PTX, CUBIN = 1, 2
SPECIFIC: Final = 1 << 20  # in the flags: compiled for `sm_90a`, not `sm_90`


def locked(flavour: Flavour) -> tuple[str, frozenset[str]]:
    """Give the version and the SHA-256 hashes that the lock accepts for the flavour's wheel."""
    text = (LOCKS / f"{flavour}.txt").read_text()
    block = re.search(rf"^{PACKAGES[flavour]}==(\S+).*?(?=^\S|\Z)", text, re.MULTILINE | re.DOTALL)
    if block is None:
        raise ValueError(f"locks/{flavour}.txt: expected a line `{PACKAGES[flavour]}==…`, got none")
    return block[1], frozenset(re.findall(r"sha256:([0-9a-f]{64})", block[0]))


def architectures(library: bytes) -> tuple[str, ...]:
    """List what an ELF library's kernels were compiled for: ``sm_80``, ``sm_90a``, ``compute_120``.

    Only what every container has: a kernel that is missing for one architecture is missing. Raises
    ``ValueError`` where there is no fat binary in it.
    """
    containers = [frozenset(found) for found in _containers(_section(library, ".nv_fatbin"))]
    if not containers:
        raise ValueError("library: expected kernels in `.nv_fatbin`, got none")
    everywhere = frozenset.intersection(*containers)
    return tuple(sorted(everywhere, key=lambda name: (name.startswith("c"), len(name), name)))


def _section(library: bytes, name: str) -> bytes:
    if library[:4] != b"\x7fELF":
        raise ValueError(f"library: expected an ELF file, got {library[:4]!r}")
    (table,) = struct.unpack_from("<Q", library, 0x28)
    size, count, names_at = struct.unpack_from("<HHH", library, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", library, table + i * size) for i in range(count)]
    names = headers[names_at][4]
    for name_offset, _, _, _, offset, length in headers:
        start = names + name_offset
        if library[start : library.index(b"\0", start)] == name.encode():
            return library[offset : offset + length]
    raise ValueError(f"library: expected a section `{name}`, got none")


def _containers(section: bytes) -> Iterator[list[str]]:
    at = 0
    while at + CONTAINER.size <= len(section):
        magic, _, header, size = CONTAINER.unpack_from(section, at)
        if magic != CONTAINER_MAGIC:
            at += 8  # containers are aligned, and padded in between
            continue
        yield list(_entries(section[at + header : at + header + size]))
        at += header + size


def _entries(container: bytes) -> Iterator[str]:
    at = 0
    while at < len(container):
        kind, _, header, size, *_, number, _, _, flags = ENTRY.unpack_from(container, at)
        if kind not in (PTX, CUBIN):
            raise ValueError(f"fat binary: expected an entry of kind 1 or 2, got {kind}")
        yield f"{'compute' if kind == PTX else 'sm'}_{number}{'a' if flags & SPECIFIC else ''}"
        at += header + size


def _download(flavour: Flavour, machine: str, into: Path) -> Path:
    version, _ = locked(flavour)
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
         f"--platform=manylinux_2_35_{machine}", f"--dest={into / machine}",
         f"{PACKAGES[flavour]}=={version}"],
        check=True,
    )  # fmt: skip
    return next((into / machine).glob(f"{PACKAGES[flavour].replace('-', '_')}-*.whl"))


def _row(flavour: Flavour, wheels: dict[str, Path]) -> dict[str, Any]:
    version, hashes = locked(flavour)
    found: set[tuple[str, ...]] = set()
    digests = {}
    for machine, wheel in wheels.items():
        digests[machine] = hashlib.sha256(wheel.read_bytes()).hexdigest()
        if digests[machine] not in hashes:
            raise ValueError(f"{wheel.name}: its hash is not in locks/{flavour}.txt")
        found.add(architectures(zipfile.ZipFile(wheel).read(LIBRARY)))
    if len(found) != 1:
        raise ValueError(f"{PACKAGES[flavour]}: the wheels' architectures differ: {sorted(found)}")
    return {
        "package": PACKAGES[flavour],
        "version": version,
        "sha256": digests,
        "architectures": list(found.pop()),
    }


def main() -> None:
    """Download, read and write the table."""
    with tempfile.TemporaryDirectory() as made:
        table = {
            flavour: _row(flavour, {m: _download(flavour, m, Path(made)) for m in MACHINES})
            for flavour in PACKAGES
        }
    (HERE / "wheel_architectures.json").write_text(json.dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    main()
