"""Which GPUs the locked wheels can serve: CUDA's rules, and the table made from the wheels."""

import json
import struct
from pathlib import Path

import pytest

from planner import architectures
from planner.architectures import Architecture
from planner.wheel_architectures import CONTAINER, ENTRY, HERE, PACKAGES, locked
from planner.wheel_architectures import architectures as read

TABLE = json.loads((HERE / "wheel_architectures.json").read_text())


@pytest.mark.parametrize("flavour", PACKAGES)
def test_the_table_belongs_to_the_locked_wheel(flavour: str):
    """A lock that moved on without `python -m planner.wheel_architectures` fails here."""
    version, hashes = locked(flavour)  # type: ignore[arg-type]
    row = TABLE[flavour]
    assert (row["package"], row["version"]) == (PACKAGES[flavour], version)  # type: ignore[index]
    assert set(row["sha256"].values()) <= hashes
    assert set(row["sha256"]) == {"x86_64", "aarch64"}


@pytest.mark.parametrize("flavour", PACKAGES)
@pytest.mark.parametrize(
    ("capability", "card", "runs"),
    [
        ("6.0", "P100", False),
        ("7.0", "V100", False),
        ("7.5", "T4", True),
        ("8.0", "A100", True),
        ("8.6", "RTX A6000", True),
        ("8.7", "Jetson Orin", True),
        ("8.9", "RTX 4090", True),
        ("9.0", "H100, H200", True),
        ("10.0", "B200", True),
        ("10.3", "B300", False),
        ("11.0", "Jetson Thor", False),
        ("12.0", "RTX PRO 6000 Blackwell", True),
        ("12.1", "GB10", True),
    ],
)
def test_a_gpu_runs_or_not(flavour: str, capability: str, card: str, runs: bool):  # noqa: FBT001
    """As MLX's documentation and CUDA's rules have it, card by card."""
    assert architectures.runs(flavour, capability) is runs, card  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("compiled_for", "runs_on", "not_on"),
    [
        ("sm_80", ["8.0", "8.6", "8.9"], ["7.5", "9.0", "12.0"]),
        ("sm_86", ["8.6", "8.9"], ["8.0"]),
        ("sm_90a", ["9.0"], ["9.1", "10.0"]),
        ("sm_100a", ["10.0"], ["10.3", "11.0", "12.0"]),
        ("compute_120", ["12.0", "12.1", "13.0"], ["10.3", "11.0"]),
    ],
)
def test_the_rules(compiled_for: str, runs_on: list[str], not_on: list[str]):
    """Binaries stay within a major version, `a` within one chip, PTX goes up."""
    target = Architecture.parse(compiled_for)
    assert all(target.runs_on(*map(int, one.split("."))) for one in runs_on)
    assert not any(target.runs_on(*map(int, one.split("."))) for one in not_on)


def test_an_unknown_spelling_is_refused():
    """A family target, `sm_100f`, has rules that nobody has written down here yet."""
    with pytest.raises(ValueError, match="sm_100f"):
        Architecture.parse("sm_100f")


def library(*containers: list[tuple[int, int, int]]) -> bytes:
    """Make an ELF file whose `.nv_fatbin` has containers of entries (kind, number, flags)."""
    section = b""
    for entries in containers:
        body = b"".join(
            ENTRY.pack(kind, 0x101, 64, 8, 0, 0, 8, 1, number, 0, 0, flags).ljust(64, b"\0")
            + b"\0" * 8
            for kind, number, flags in entries
        )
        section += CONTAINER.pack(0xBA55ED50, 1, 16, len(body)) + body + b"\0" * 8
    names = b"\0.nv_fatbin\0.shstrtab\0"
    at = 64 + len(section) + len(names)
    header = b"\x7fELF".ljust(0x28, b"\0") + struct.pack("<Q", at) + b"\0" * 10
    header += struct.pack("<HHH", 64, 3, 2)

    def row(name: int, offset: int, size: int) -> bytes:
        return struct.pack("<IIQQQQ", name, 1, 0, 0, offset, size).ljust(64, b"\0")

    rows = row(0, 0, 0) + row(1, 64, len(section)) + row(12, 64 + len(section), len(names))
    return header.ljust(64, b"\0") + section + names + rows


def test_only_what_every_kernel_was_compiled_for_counts():
    """A container without `sm_80` is a kernel that an A100 cannot run."""
    both = [(2, 80, 0x11), (2, 90, 0x100011), (1, 120, 0x11)]
    assert read(library(both, both)) == ("sm_80", "sm_90a", "compute_120")
    assert read(library(both, both[1:])) == ("sm_90a", "compute_120")


@pytest.mark.parametrize("content", [b"PK\3\4", library()])
def test_a_library_without_kernels_is_an_error(content: bytes):
    """Not an empty table, which would refuse every GPU there is."""
    with pytest.raises(ValueError, match="expected"):
        read(content)


def test_the_command_is_where_the_docs_say():
    """`python -m planner.wheel_architectures`, in the page and in the module."""
    page = (Path(__file__).parents[2] / "docs" / "preflight.md").read_text()
    assert "python -m planner.wheel_architectures" in page
    assert " ".join(architectures.inside("cuda13")).rpartition(" ")[0] in page
