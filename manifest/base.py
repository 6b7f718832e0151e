"""What every host of ours has before anything is served: user, directories, packages, holds."""

from __future__ import annotations

from collections.abc import Callable

from manifest import layout
from manifest.part import Part, file
from manifest.resources import Directory, File, Hold, Package, User

# What makes up NVIDIA's driver on Debian and Ubuntu, and Ubuntu's kernel modules for it. Not the
# container toolkit, which has a life of its own. Names: `apt-cache search nvidia` on both.
DRIVER_PACKAGES = (
    r"(?!.*container)"
    r"(nvidia-.*|libnvidia-.*|xserver-xorg-video-nvidia.*|libcuda1.*|cuda-drivers.*"
    r"|libnvoptix.*|linux-(modules|objects|signatures)-nvidia-.*)"
)
NEEDRESTART = "/etc/needrestart/conf.d/mlx-hosts.conf"


def part(render: Callable[..., str], *, gpu: bool) -> Part:
    """Declare it; ``render(template, **values)`` gives a template's text."""
    declared = Part(
        resources=(
            # python3-venv brings ensurepip, which Debian keeps out of python3.
            Package(name="ca-certificates"),
            Package(name="python3-venv"),
            User(name=layout.USER, home=layout.STATE, shell="/usr/sbin/nologin", groups=()),  # noqa: S604 - a login shell
            Directory(path=layout.OPT),
            Directory(path=layout.RECORDS),
            Directory(path=layout.RUNTIMES),
            Directory(path=layout.GUARDS),
            Directory(path=layout.TOOLS),
            Directory(path=layout.ETC),
            File(path=layout.STAMP),  # its text is the stamp's own business
            Directory(path=layout.STATE),
            Directory(path=layout.HUB),
            Directory(path=layout.CACHE),
            Directory(path="/etc/needrestart"),
            Directory(path=NEEDRESTART.rpartition("/")[0]),
        )
    ) + file(NEEDRESTART, render("needrestart.conf"))
    return declared + Part(resources=(Hold(pattern=DRIVER_PACKAGES),)) if gpu else declared
