"""Changes that somebody thought of: found under the right name, and repaired."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest

from lab import Host, Lab
from tests.drift.by_hand import CATALOGUE, ByHand
from tests.drift.checking import deploy, drift
from tests.drift.test_catalogue import SEED

pytestmark = pytest.mark.lab

SAMPLE = random.Random(SEED).sample(CATALOGUE, 4)


def test_a_sample_is_found_and_repaired(lab: Lab, kept: Host) -> None:
    """A few of them, others every day."""
    print(f"DRIFT_SEED={SEED}: {[one.id for one in SAMPLE]}")
    go_through(lab, kept, SAMPLE)


@pytest.mark.soak
def test_all_are_found_and_repaired(lab: Lab, kept: Host) -> None:
    """Every one of them, one after the other."""
    rows = go_through(lab, kept, CATALOGUE)
    if place := os.environ.get("DRIFT_TABLE_BY_HAND"):
        Path(place).write_text(json.dumps(rows, indent=1))


def go_through(lab: Lab, host: Host, changes: list[ByHand]) -> list[dict[str, str]]:
    """Make each change, look, repair, look again; tell at the end all that went wrong."""
    wrong: list[str] = []
    rows: list[dict[str, str]] = []
    for one in changes:
        host.root_run(f"set -eu\n{one.script}", timeout_s=120)
        checked = drift(lab, host.name)
        found = checked.findings(host.name)
        if not any(cause == one.finding and at.startswith(one.at) for cause, at in found):
            wrong.append(f"{one.id}: expected {one.finding} of {one.at}, found {found}")
        if checked.returncode != 2:
            wrong.append(f"{one.id}: exit {checked.returncode}: {checked}")
        if one.repair == "reboot":
            host.reboot()
        else:
            deploy(lab, host.name)
        after = drift(lab, host.name)
        if after.returncode != 0:
            wrong.append(f"{one.id}: not repaired: {after}")
        rows.append({"change": one.id, "class": one.finding, "at": one.at, "repair": one.repair})
    assert not wrong, "\n".join(wrong)
    return rows
