"""What the probe makes of nvidia-smi's words, and of its silence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from manifest.resources import Device, DeviceSet
from tests.facts.probing import probed

UUID = "GPU-51b00001-0000-4000-8000-000000000000"
ASKED = (Device(uuid=UUID), DeviceSet())
CARD = "NVIDIA RTX PRO 6000 Blackwell Workstation Edition"
ROW = f"{UUID}, {CARD}, 00000000:C1:00.0, 97887, Default, [N/A], Disabled, 600.00, 580.95.05"


def asked(place: Path, *, said: str, status: int) -> dict[str, Any]:
    """Answer the probe's one question to the driver so; coreutils' timeout ends as its program."""
    script = f"echo asked >> {place}/asked\necho '{said}'\nexit {status}"
    return probed(place, ASKED, "timeout", script)


def test_a_bus_address_is_read_as_preflight_reads_it(tmp_path: Path) -> None:
    """The driver says hexadecimal in capitals; what is declared has small letters."""
    card, _ = asked(tmp_path, said=ROW, status=0)["resources"]
    assert (card["pci"], card["memory_mib"]) == ("00000000:c1:00.0", 97887)


def test_a_card_that_shares_memory_is_read(tmp_path: Path) -> None:
    """`[N/A]` for its memory is nothing to stumble over."""
    card, _ = asked(tmp_path, said=ROW.replace("97887", "[N/A]"), status=0)["resources"]
    assert card["memory_mib"] is None


def test_a_driver_that_hangs_is_not_cards_that_are_gone(tmp_path: Path) -> None:
    """Nothing is said of any card but that nothing is known; and it is waited for once."""
    answer = asked(tmp_path, said="", status=124)
    assert answer["resources"] == []
    assert len(answer["problems"]) == len(ASKED)
    assert all("nvidia-smi" in line and "no answer" in line for line in answer["problems"])
    assert (tmp_path / "asked").read_text().split() == ["asked"]
