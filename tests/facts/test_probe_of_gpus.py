"""What the probe makes of nvidia-smi's words, and of its silence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from facts.probe import question
from manifest.resources import Device, DeviceSet

UUID = "GPU-51b00001-0000-4000-8000-000000000000"
ASKED = (Device(uuid=UUID), DeviceSet())
CARD = "NVIDIA RTX PRO 6000 Blackwell Workstation Edition"
ROW = f"{UUID}, {CARD}, 00000000:C1:00.0, 97887, Default, [N/A], Disabled, 600.00, 580.95.05"


def asked(place: Path, *, said: str, status: int) -> dict[str, Any]:
    """Answer the probe's one question to the driver so; coreutils' timeout ends as its program."""
    stand_in = place / "timeout"
    stand_in.write_text(f"#!/bin/sh\necho asked >> {place}/asked\necho '{said}'\nexit {status}\n")
    stand_in.chmod(0o755)
    told = subprocess.run(
        [sys.executable, "-I", "-"],
        input=question(ASKED),
        env={"PATH": f"{place}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    answer: dict[str, Any] = json.loads(told)
    return answer


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
