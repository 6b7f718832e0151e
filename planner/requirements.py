"""What MLX needs of a host, each figure with where it comes from.

Floors of the versions locked in ``locks/``; a test holds the ones that can be read from the lock or
the wheels against them. Versions are tuples of ints, sizes are bytes.
"""

from __future__ import annotations

import re
from typing import Final

from planner.declared import Flavour

Version = tuple[int, ...]

# The wheels' tag, manylinux_2_35: libmlx.so asks for GLIBC_2.35 (readelf -V).
GLIBC: Final[Version] = (2, 35)
# mlx-lm 0.32.2, Requires-Python; mlx has wheels up to cp315.
PYTHON: Final[Version] = (3, 11)
PYTHON_BELOW: Final[Version] = (3, 16)
# PrivateIPC= came with 248, ProcSubset= and LoadCredential= with 247 (systemd's NEWS). 249 is
# Ubuntu 22.04's, the oldest that we accept, and units use nothing newer.
SYSTEMD: Final = 249
ARCHITECTURES: Final = frozenset({"x86_64", "aarch64"})  # what the wheels are built for
# Distributions whose packages `base` can install and hold, from the first version with the glibc.
DISTRIBUTIONS: Final[dict[str, Version]] = {"debian": (12,), "ubuntu": (22, 4)}

# MLX, "Build and install", CUDA: ">= 550.54.14" for cuda12, ">= 580" for cuda13. The branch
# decides: CUDA's minor version compatibility runs wheels of any 13.x on a driver that says 13.0.
DRIVER: Final[dict[Flavour, Version]] = {"cuda13": (580,), "cuda12": (550, 54, 14)}

# What a build of the lock leaves and keeps for a moment: `du -sB1` of the environment, its bytecode
# and uv's cache beside it (mlx 0.32.4, Python 3.11, x86_64), and half a gigabyte for uv, the guard
# and the unpacking.
RUNTIME_BYTES: Final[dict[Flavour, int]] = {
    "cpu": 359_694_336 + 500_000_000,
    "cuda12": 4_615_294_976 + 500_000_000,
    "cuda13": 3_491_274_752 + 500_000_000,
}
# What an idle GPU shows as used without anyone on it (firmware, persistence) stays below this.
IDLE_GPU_BYTES: Final = 1024**3


def version(text: str) -> Version:
    """Read ``580.95.05`` as ``(580, 95, 5)``; what is not a number ends it (``3.12.0rc1``)."""
    return tuple(int(part) for part in re.findall(r"\d+", re.match(r"[\d.]*", text)[0]))  # type: ignore[index]


def spell(floor: Version) -> str:
    """Write a version as people do; ``(22, 4)`` of Ubuntu is the caller's business."""
    return ".".join(map(str, floor))


def flavour(driver: str) -> Flavour | None:
    """Tell which runtime a driver of this version runs, ``None`` if none: its branch decides."""
    found = version(driver)
    return next((name for name, floor in DRIVER.items() if found >= floor), None)
