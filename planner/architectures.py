"""Which GPUs can run the kernels that the locked wheels really contain.

``wheel_architectures.json`` is made from the wheels by ``python -m planner.wheel_architectures``.
The rules are CUDA's (CUDA C++ Programming Guide, "Binary Compatibility", "PTX Compatibility" and
"Feature Availability"):

- a cubin ``sm_80`` runs on compute capability 8.x with x ≥ 0, never on another major version;
- a cubin with a suffix, ``sm_90a``, uses features of that one chip and runs on exactly that;
- PTX ``compute_120`` is compiled by the driver for anything from 12.0 on.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from planner.declared import Flavour


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """One target that kernels were compiled for: ``sm_90a``, ``compute_120``."""

    major: int
    minor: int
    specific: bool  # the suffix `a`
    ptx: bool

    @classmethod
    def parse(cls, text: str) -> Architecture:
        """Read NVIDIA's own spelling; raises ``ValueError`` for any other."""
        match = re.fullmatch(r"(sm|compute)_(\d+)(\d)(a?)", text)
        if not match:
            raise ValueError(f"architecture: expected `sm_90a` or `compute_120`, got {text!r}")
        return cls(
            major=int(match[2]),
            minor=int(match[3]),
            specific=bool(match[4]),
            ptx=match[1] == "compute",
        )

    def runs_on(self, major: int, minor: int) -> bool:
        """Tell whether a GPU of this compute capability can run code for this target."""
        if self.specific:
            return (major, minor) == (self.major, self.minor)
        if self.ptx:
            return (major, minor) >= (self.major, self.minor)
        return major == self.major and minor >= self.minor


@cache
def inside(flavour: Flavour) -> tuple[str, ...]:
    """Give the targets that the wheel of this flavour contains, as NVIDIA spells them."""
    table = json.loads(files("planner").joinpath("wheel_architectures.json").read_text())
    return tuple(table[flavour]["architectures"])


@cache
def runs(flavour: Flavour, compute_capability: str) -> bool:
    """Tell whether some kernel of the flavour's wheel runs on ``7.5``, ``12.0`` …"""
    major, minor = map(int, compute_capability.split("."))
    return any(Architecture.parse(text).runs_on(major, minor) for text in inside(flavour))
