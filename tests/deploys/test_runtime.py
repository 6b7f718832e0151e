"""What is changed in a runtime is found, and the next run repairs it."""

from __future__ import annotations

import json
import re
import subprocess
import time
from pathlib import Path

import pytest

from lab import Host, Lab
from manifest import locks
from manifest.manifest import Manifest
from manifest.resources import Runtime
from tests.deploying import PYINFRA, ROOT, environment_of
from tests.deploys.looking import differences

pytestmark = pytest.mark.lab

BYTE = r"""
file=$(ls {site}/mlx/core.cpython-*.so)
before=$(stat -c '%s %y' "$file")
printf '\377' | dd of="$file" bs=1 seek=5000 conv=notrunc status=none
touch -d "${{before#* }}" "$file"
test "$(stat -c '%s %y' "$file")" = "$before"
"""
ADDED = """
mkdir {site}/extra-1.0.dist-info
printf 'Metadata-Version: 2.1\nName: extra\nVersion: 1.0\n' >{site}/extra-1.0.dist-info/METADATA
echo 'import os' >{site}/extra.py
"""
REMOVED = "rm -r {site}/jinja2 {site}/jinja2-*.dist-info"


@pytest.mark.parametrize(
    "flavour", ["cpu", pytest.param("cuda13", marks=pytest.mark.soak, id="cuda13")]
)
def test_every_change_is_found_and_repaired(lab: Lab, flavour: str) -> None:
    """A byte (size and time kept), a package more, one less, and a block that rots on the disk."""
    host = lab.boot(f"runtime-{flavour}", durable=True)
    began = time.monotonic()
    build(lab, host, flavour)
    built_s = time.monotonic() - began
    runtime = expected(host, flavour)
    site = Path(host.root_run(f"echo {runtime.path}/lib/python3*/site-packages").stdout.strip())
    assert installed(host, site) == pins(flavour)
    assert found(host, runtime) == []
    assert found(host, runtime, deep=True) == []
    print(figures(host, runtime, built_s))

    breaks = [
        (BYTE, r"content: lib/.*/mlx/core\.cpython-.*\.so"),
        (ADDED, r"added: lib/.*/extra\.py"),
        (REMOVED, r"removed: lib/.*/jinja2"),
    ]
    for number, (script, _) in enumerate(breaks, 1):
        host.root_run("set -eu\n" + script.format(site=site))
        for deep in (False, True):
            (line,) = found(host, runtime, deep=deep)
            assert [said for _, said in breaks if re.search(said, line)] == [
                said for _, said in breaks[:number]
            ], line
    build(lab, host, flavour)
    assert found(host, runtime, deep=True) == []

    rot(host, next((host.root / str(site).lstrip("/")).glob("mlx/core.cpython-*.so")))
    assert found(host, runtime) == []  # nothing that the file system knows has changed
    (line,) = found(host, runtime, deep=True)
    assert re.search(breaks[0][1], line)
    host.root_run(f"rm {runtime.record}")  # the way out: what has no record is not trusted
    build(lab, host, flavour)
    assert found(host, runtime, deep=True) == []
    host.destroy()


def build(lab: Lab, host: Host, flavour: str) -> None:
    done = subprocess.run(
        [
            *(PYINFRA, "inventories/lab.py", "tests/deploys/runtime_only.py"),
            *("-y", "--limit", host.name),
        ],
        cwd=ROOT,
        env={**environment_of(lab), "PATH": "/usr/bin:/bin", "FLAVOUR": flavour},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def pins(flavour: str) -> set[str]:
    """Name and version of all that the lock installs on a lab host."""
    lock = (ROOT / f"locks/{flavour}.txt").read_text()
    pinned = locks.pins(lock, python="3.11.2", architecture="x86_64")
    return {f"{name}=={version}" for name, version in pinned.items()}


def expected(host: Host, flavour: str) -> Runtime:
    """Say what is to be there, from the lock."""
    (path,) = host.root_run("ls -d /opt/mlx-hosts/runtimes/*").stdout.split()
    packages = locks.contents(
        (ROOT / f"locks/{flavour}.txt").read_text(), python="3.11.2", architecture="x86_64"
    )
    record = f"/opt/mlx-hosts/records/runtimes-{path.rpartition('/')[2]}.json"
    return Runtime(path=path, record=record, packages=packages)


def installed(host: Host, site: Path) -> set[str]:
    """List what Python itself finds installed there."""
    program = (
        "import importlib.metadata as m, json, re; print(json.dumps(["
        're.sub(r"[-_.]+", "-", d.metadata["Name"]).lower() + "==" + d.version '
        f'for d in m.distributions(path=["{site}"])]))'
    )
    return set(json.loads(host.root_run(f"python3 -I -c '{program}'").stdout))


def found(host: Host, runtime: Runtime, *, deep: bool = False) -> list[str]:
    return differences(host, Manifest((runtime,)), deep=deep)


def rot(host: Host, file: Path) -> None:
    """Change a byte of a file on the disk below its file system, which notices nothing."""
    inside = file.relative_to(host.root)
    host.flush()
    host.kill()
    image = host.directory / "disk.img"
    asked = subprocess.run(
        ["debugfs", "-R", f"bmap /upper/{inside} 1", image],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    with image.open("r+b") as disk:
        disk.seek(int(asked.stdout) * 4096 + 1000)
        (byte,) = disk.read(1)
        disk.seek(-1, 1)
        disk.write(bytes([byte ^ 0xFF]))
    host.start()


def figures(host: Host, runtime: Runtime, built_s: float) -> str:
    """Tell size and times, for the docs."""
    size = host.root_run(f"du -s -B1000000 {runtime.path}", timeout_s=120).stdout.split()[0]
    count = host.root_run(f"find {runtime.path} -type f | wc -l", timeout_s=120).stdout.strip()
    took = {}
    for deep in (False, True):
        began = time.monotonic()
        found(host, runtime, deep=deep)
        took[deep] = time.monotonic() - began
    return (
        f"{size} MB in {count} files, built with base and uv in {built_s:.0f} s; "
        f"routine check {took[False]:.2f} s, deep check {took[True]:.2f} s"
    )
