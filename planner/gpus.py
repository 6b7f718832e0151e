"""The cards that MLX supports, as the driver reports them.

``memory`` is what NVML calls the total (``nvidia-smi --query-gpu=memory.total``), in MiB as the
driver prints it: less than the marketing figure, since the driver keeps some for itself and, on
GDDR cards with ECC on, for the check bits. It differs by some MiB between driver branches, so a
plan that is made before the machine was seen takes this figure, and preflight takes the machine's.

Compute capabilities: https://developer.nvidia.com/cuda-gpus. Supported are those that the locked
wheel has kernels for: 7.5, 8.x, 9.0, 10.0, 12.0, 12.1. Sources of the memory figures: `seen` is
output of the driver that was published by somebody; `nominal` is the card's memory from its data
sheet less 2 %, a low guess that errs on the safe side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from planner.declared import Gpu
from planner.record import Record

MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Card(Record):
    """One product: name and memory as the driver reports them."""

    name: str
    mib: int
    compute_capability: str
    source: Literal["seen", "nominal"]

    @property
    def gpu(self) -> Gpu:
        return Gpu(
            name=self.name,
            memory_bytes=self.mib * MIB,
            compute_capability=self.compute_capability,
        )


def _card(name: str, mib: int, sm: str, source: Literal["seen", "nominal"]) -> Card:
    return Card(name=name, mib=mib, compute_capability=sm, source=source)


def _nominal(gib: int) -> int:
    return int(gib * 1024 * 0.98)


CARDS = (
    _card("Tesla T4", 15360, "7.5", "seen"),
    _card("NVIDIA H200", 143771, "9.0", "seen"),
    _card("NVIDIA H100 80GB HBM3", 81559, "9.0", "seen"),
    _card("NVIDIA A100-SXM4-80GB", 81920, "8.0", "seen"),
    _card("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", 97887, "12.0", "seen"),
)

BY_NAME = {card.name: card for card in CARDS}
