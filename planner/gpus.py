"""The cards that MLX supports, as the driver reports them.

``memory`` is what NVML calls the total (``nvidia-smi --query-gpu=memory.total``), in MiB as the
driver prints it: less than the marketing figure, since the driver keeps some for itself and, on
GDDR cards with ECC on, for the check bits. It differs by some MiB between driver branches, so a
plan that is made before the machine was seen takes this figure, and preflight takes the machine's.

Compute capabilities: https://developer.nvidia.com/cuda-gpus. Supported are those that the locked
wheel has kernels for: 7.5, 8.x, 9.0, 10.0, 12.0, 12.1. Every figure was seen in published output of
the driver: docs/evidence/gpus.md. GB10 is not among them, which shares its machine's memory.

A name can stand for two sizes, or for ECC on and off: it has the figure that most report, and of
two that are both common the lower. Laptop GPUs are left out: `RTX 4090` has to mean one card.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches

from planner.declared import Gpu
from planner.record import Record

MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Card(Record):
    """One product: name and memory as the driver reports them."""

    name: str
    mib: int
    compute_capability: str

    @property
    def gpu(self) -> Gpu:
        return Gpu(
            name=self.name,
            memory_bytes=self.mib * MIB,
            compute_capability=self.compute_capability,
        )


def _card(name: str, mib: int, sm: str) -> Card:
    return Card(name=name, mib=mib, compute_capability=sm)


CARDS = (
    _card("Tesla T4", 15360, "7.5"),
    _card("NVIDIA TITAN RTX", 24576, "7.5"),
    _card("Quadro RTX 4000", 8192, "7.5"),
    _card("Quadro RTX 5000", 16384, "7.5"),
    _card("Quadro RTX 6000", 23040, "7.5"),
    _card("Quadro RTX 8000", 46080, "7.5"),
    _card("NVIDIA GeForce RTX 2060", 6144, "7.5"),
    _card("NVIDIA GeForce RTX 2060 SUPER", 8192, "7.5"),
    _card("NVIDIA GeForce RTX 2070", 8192, "7.5"),
    _card("NVIDIA GeForce RTX 2070 SUPER", 8192, "7.5"),
    _card("NVIDIA GeForce RTX 2080", 8192, "7.5"),
    _card("NVIDIA GeForce RTX 2080 SUPER", 8192, "7.5"),
    _card("NVIDIA GeForce RTX 2080 Ti", 11264, "7.5"),
    _card("NVIDIA A100-SXM4-40GB", 40960, "8.0"),
    _card("NVIDIA A100-PCIE-40GB", 40960, "8.0"),
    _card("NVIDIA A100-SXM4-80GB", 81920, "8.0"),
    _card("NVIDIA A100 80GB PCIe", 81920, "8.0"),
    _card("NVIDIA A800-SXM4-80GB", 81920, "8.0"),
    _card("NVIDIA A800 80GB PCIe", 81920, "8.0"),
    _card("NVIDIA A30", 24576, "8.0"),
    _card("NVIDIA A2", 15356, "8.6"),
    _card("NVIDIA A10", 23028, "8.6"),
    _card("NVIDIA A10G", 23028, "8.6"),
    _card("NVIDIA A16", 15356, "8.6"),
    _card("NVIDIA A40", 46068, "8.6"),
    _card("NVIDIA RTX A2000", 6138, "8.6"),
    _card("NVIDIA RTX A2000 12GB", 12282, "8.6"),
    _card("NVIDIA RTX A4000", 16376, "8.6"),
    _card("NVIDIA RTX A4500", 20470, "8.6"),
    _card("NVIDIA RTX A5000", 24564, "8.6"),
    _card("NVIDIA RTX A5500", 24564, "8.6"),
    _card("NVIDIA RTX A6000", 49140, "8.6"),
    _card("NVIDIA GeForce RTX 3060", 12288, "8.6"),
    _card("NVIDIA GeForce RTX 3060 Ti", 8192, "8.6"),
    _card("NVIDIA GeForce RTX 3070", 8192, "8.6"),
    _card("NVIDIA GeForce RTX 3070 Ti", 8192, "8.6"),
    _card("NVIDIA GeForce RTX 3080", 10240, "8.6"),
    _card("NVIDIA GeForce RTX 3080 Ti", 12288, "8.6"),
    _card("NVIDIA GeForce RTX 3090", 24576, "8.6"),
    _card("NVIDIA GeForce RTX 3090 Ti", 24564, "8.6"),
    _card("NVIDIA L4", 23034, "8.9"),
    _card("NVIDIA L20", 46068, "8.9"),
    _card("NVIDIA L40", 46068, "8.9"),
    _card("NVIDIA L40S", 46068, "8.9"),
    _card("NVIDIA RTX 2000 Ada Generation", 16380, "8.9"),
    _card("NVIDIA RTX 4000 Ada Generation", 20475, "8.9"),
    _card("NVIDIA RTX 4000 SFF Ada Generation", 20475, "8.9"),
    _card("NVIDIA RTX 4500 Ada Generation", 24570, "8.9"),
    _card("NVIDIA RTX 5000 Ada Generation", 32760, "8.9"),
    _card("NVIDIA RTX 5880 Ada Generation", 49140, "8.9"),
    _card("NVIDIA RTX 6000 Ada Generation", 49140, "8.9"),
    _card("NVIDIA GeForce RTX 4060", 8188, "8.9"),
    _card("NVIDIA GeForce RTX 4060 Ti", 8188, "8.9"),
    _card("NVIDIA GeForce RTX 4070", 12282, "8.9"),
    _card("NVIDIA GeForce RTX 4070 SUPER", 12282, "8.9"),
    _card("NVIDIA GeForce RTX 4070 Ti", 12282, "8.9"),
    _card("NVIDIA GeForce RTX 4070 Ti SUPER", 16376, "8.9"),
    _card("NVIDIA GeForce RTX 4080", 16376, "8.9"),
    _card("NVIDIA GeForce RTX 4080 SUPER", 16376, "8.9"),
    _card("NVIDIA GeForce RTX 4090", 24564, "8.9"),
    _card("NVIDIA H100 PCIe", 81559, "9.0"),
    _card("NVIDIA H100 80GB HBM3", 81559, "9.0"),
    _card("NVIDIA H100 NVL", 95830, "9.0"),
    _card("NVIDIA H800", 81559, "9.0"),
    _card("NVIDIA H20", 97871, "9.0"),
    _card("NVIDIA H200", 143771, "9.0"),
    _card("NVIDIA H200 NVL", 143771, "9.0"),
    _card("NVIDIA GH200 480GB", 97871, "9.0"),
    _card("NVIDIA B200", 183359, "10.0"),
    _card("NVIDIA GB200", 189471, "10.0"),
    _card("NVIDIA GeForce RTX 5050", 8151, "12.0"),
    _card("NVIDIA GeForce RTX 5060", 8151, "12.0"),
    _card("NVIDIA GeForce RTX 5060 Ti", 8151, "12.0"),
    _card("NVIDIA GeForce RTX 5070", 12227, "12.0"),
    _card("NVIDIA GeForce RTX 5070 Ti", 16303, "12.0"),
    _card("NVIDIA GeForce RTX 5080", 16303, "12.0"),
    _card("NVIDIA GeForce RTX 5090", 32607, "12.0"),
    _card("NVIDIA RTX PRO 2000 Blackwell", 16311, "12.0"),
    _card("NVIDIA RTX PRO 4000 Blackwell", 24467, "12.0"),
    _card("NVIDIA RTX PRO 4000 Blackwell SFF Edition", 24467, "12.0"),
    _card("NVIDIA RTX PRO 4500 Blackwell", 32623, "12.0"),
    _card("NVIDIA RTX PRO 5000 Blackwell", 48935, "12.0"),
    _card("NVIDIA RTX PRO 5000 72GB Blackwell", 73415, "12.0"),
    _card("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", 97887, "12.0"),
    _card("NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", 97887, "12.0"),
    _card("NVIDIA RTX PRO 6000 Blackwell Server Edition", 97887, "12.0"),
)

BY_NAME = {card.name: card for card in CARDS}


def find(words: str) -> tuple[Card, ...]:
    """The cards that ``words`` mean: the one of that name, else all that have the words in theirs.

    Next to one another, if there is such a card. Of several, one that follows from the words alone:
    `RTX PRO 6000` is the workstation card.
    """
    for card in CARDS:
        if card.name.lower() == words.lower():
            return (card,)
    asked = _words(words)
    found = [card for card in CARDS if asked and _contains(_words(card.name), asked)]
    if asked and not found:
        found = [card for card in CARDS if {*asked} <= {*_words(card.name)}]
    alike = {(card.mib, card.compute_capability) for card in found}
    # Editions that differ in their coolers only are the same to a plan.
    return tuple(found[:1] if len(alike) == 1 else found)


def near(words: str) -> tuple[str, ...]:
    """The names of up to five cards that ``words``, which are no card's name, may mean."""
    if found := find(words):
        return tuple(card.name for card in found[:5])
    short = {_short(name): name for name in BY_NAME}
    return tuple(short[one] for one in get_close_matches(_short(words), short))


def _short(name: str) -> str:
    return name.lower().removeprefix("nvidia ").removeprefix("geforce ")


def _words(name: str) -> list[str]:
    return name.lower().replace("-", " ").split()


def _contains(name: list[str], asked: list[str]) -> bool:
    """Whether ``asked`` stands in ``name``, its words next to one another."""
    return any(name[at : at + len(asked)] == asked for at in range(len(name)))
