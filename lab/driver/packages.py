"""Packages named like the distribution's NVIDIA driver, empty, to be held and upgraded."""

from __future__ import annotations

import hashlib
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from lab.driver.profile import Profile

if TYPE_CHECKING:
    from lab import Host

REPOSITORY = "opt/simulated-nvidia-packages"
SOURCES = "etc/apt/sources.list.d/simulated-nvidia.list"
CONTROL = """\
Package: {name}
Version: {version}
Architecture: all
Maintainer: the lab <lab@localhost>
Section: restricted/misc
Description: SIMULATED stand-in for {name}, empty
"""


def install_packages(host: Host, profile: Profile) -> None:
    """Install the profile's driver packages on a host that is up."""
    built = [_build(host.root / REPOSITORY, n, v) for n, v in profile.packages.items()]
    if built:
        names = " ".join(f"/{REPOSITORY}/{path.name}" for path in built)
        host.root_run(f"dpkg --install {names}")


def offer_newer(host: Host, profile: Profile, *, version: str = "999.0-1") -> None:
    """Let the host's apt know of a newer version of each, in a repository on the host itself."""
    paths = [_build(host.root / REPOSITORY, name, version) for name in profile.packages]
    index = "\n".join(
        CONTROL.format(name=name, version=version)
        + f"Filename: ./{path.name}\nSize: {path.stat().st_size}\n"
        + f"SHA256: {hashlib.sha256(path.read_bytes()).hexdigest()}\n"
        for name, path in zip(profile.packages, paths, strict=True)
    )
    (host.root / REPOSITORY / "Packages").write_text(index)
    (host.root / SOURCES).write_text(f"deb [trusted=yes] file:/{REPOSITORY} ./\n")
    # This list alone: the host's other sources need no network for it.
    host.root_run(
        f"apt-get -qq update -o Dir::Etc::SourceList=/{SOURCES} -o Dir::Etc::SourceParts=-"
        " -o APT::Get::List-Cleanup=0"
    )


def _build(into: Path, name: str, version: str) -> Path:
    into.mkdir(parents=True, exist_ok=True)
    package = into / f"{name}_{version}_all.deb"
    with tempfile.TemporaryDirectory() as made:
        control = Path(made) / "DEBIAN" / "control"
        control.parent.mkdir(mode=0o755)
        control.write_text(CONTROL.format(name=name, version=version))
        Path(made).chmod(0o755)
        build = ["dpkg-deb", "--root-owner-group", "--build", made, str(package)]
        subprocess.run(build, check=True, capture_output=True)
    return package
