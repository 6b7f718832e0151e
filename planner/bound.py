"""A declared host bound to the real machine: what every later task builds on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from planner.declared import Flavour


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundGpu:
    """One GPU by UUID, as the driver describes it; its index is its place in PCI order."""

    uuid: str
    pci: str  # "00000000:41:00.0"
    name: str
    memory_bytes: int
    compute_capability: str
    ecc: str | None
    power_limit_watts: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """What preflight settled about a host that it did not refuse."""

    flavour: Flavour
    architecture: str  # `uname -m`'s word
    distribution: str  # "debian"
    distribution_version: str  # "12"
    kernel: str
    glibc: str
    systemd: int
    python: str  # the interpreter's path, as asked for
    python_version: str  # all of it: "3.11.2"
    memory_bytes: int
    driver: str | None  # "580.95.05"; None on a CPU host
    cuda: str | None  # the newest CUDA that the driver speaks, "13.0"
    gpus: tuple[BoundGpu, ...]

    def to_json(self) -> dict[str, Any]:
        """Give plain dictionaries, for pyinfra's printing and for the stamp."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Bound:
        """Read what ``to_json`` gave; raises ``TypeError`` or ``KeyError`` where it is not that."""
        return cls(**{**data, "gpus": tuple(BoundGpu(**gpu) for gpu in data["gpus"])})
