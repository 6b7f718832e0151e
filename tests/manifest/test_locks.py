"""What a lock installs on one kind of host."""

from __future__ import annotations

from pathlib import Path

import pytest

from manifest.locks import contents, pins

LOCKS = Path(__file__).parents[2] / "locks"
ON = {"python": "3.11.2", "architecture": "x86_64"}
LOCK = """\
# a comment
--only-binary :all:
Some.Name==1.0 \\
    --hash=sha256:00 \\
    --hash=sha256:11
for-windows==2.0 ; sys_platform == 'win32' \\
    --hash=sha256:22
for-arm==3.0 ; platform_machine == 'aarch64' \\
    --hash=sha256:33
for-old-python==4.0 ; python_full_version < '3.11.3'  # why
extra[of]==5.0+cu13
"""


def test_names_and_versions_without_the_rest() -> None:
    """Names in their one spelling, exact versions; comments, options and hashes left out."""
    found = pins(LOCK, **ON)
    assert found == {"some-name": "1.0", "for-old-python": "4.0", "extra": "5.0+cu13"}


def test_markers_are_the_hosts_own() -> None:
    """Architecture and full Python version decide, and not those of this machine."""
    assert "for-arm" in pins(LOCK, python="3.11.2", architecture="aarch64")
    assert "for-old-python" not in pins(LOCK, python="3.12.0", architecture="x86_64")


@pytest.mark.parametrize("line", ["name>=1.0", "name", "name @ file:///x"])
def test_what_is_not_pinned_is_refused(line: str) -> None:
    """A lock that leaves something open is no lock."""
    with pytest.raises(ValueError, match="expected `name==version`"):
        pins(line, **ON)


@pytest.mark.parametrize("name", ["uv", "guard", "cpu", "cuda12", "cuda13"])
@pytest.mark.parametrize("architecture", ["x86_64", "aarch64"])
def test_our_locks_are_read(name: str, architecture: str) -> None:
    """Each lock installs something; an engine's has exactly one back end of MLX."""
    lock = (LOCKS / f"{name}.txt").read_text()
    found = pins(lock, python="3.11.2", architecture=architecture)
    assert found
    backends = {"cpu": "mlx-cpu", "cuda12": "mlx-cuda-12", "cuda13": "mlx-cuda-13"}
    if name in backends:
        assert {"mlx-cpu", "mlx-cuda-12", "mlx-cuda-13"} & found.keys() == {backends[name]}
        assert found["mlx"] == found[backends[name]]


def test_contents_are_told_apart_by_what_is_installed() -> None:
    """Another version is another content; another hash or comment is not."""
    one = contents(LOCK, **ON)
    assert contents(LOCK.replace("# a comment", "").replace("sha256:00", "sha256:99"), **ON) == one
    assert contents(LOCK.replace("==1.0", "==1.1"), **ON) != one
    assert contents(LOCK, python="3.12.0", architecture="x86_64") != one
