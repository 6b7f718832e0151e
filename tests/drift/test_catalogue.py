"""Everything we manage, changed in every way it can be: found, named, repaired, gone."""

import json
import os
import time
from pathlib import Path

import pytest

from lab import Host, Lab
from manifest.manifest import Manifest
from manifest.stamp import loads
from tests.breaks import Break, breaks, one_of_each
from tests.drift.batches import batches
from tests.drift.checking import deploy, drift

pytestmark = pytest.mark.lab

SEED = int(os.environ.get("DRIFT_SEED", time.time() // 86400))  # another sample every day


def manifest_of(host: Host) -> Manifest:
    stamp = loads((host.root / "etc/mlx-hosts/stamp.json").read_text())
    assert stamp.applied is not None
    return stamp.applied


def test_one_of_each_kind_is_found_and_repaired(lab: Lab, kept: Host) -> None:
    """Each kind of change to each kind of resource is named, and a deploy takes all of it away."""
    print(f"DRIFT_SEED={SEED}")
    chosen = one_of_each(breaks(manifest_of(kept)), seed=SEED)
    cheap = [one for one in chosen if one.kind not in {"runtime", "weights", "user"}]
    go_through(lab, kept, cheap)


@pytest.mark.soak
def test_the_whole_catalogue_is_found_and_repaired(lab: Lab, kept: Host) -> None:
    """Every resource, every kind of change; writes the table of the documentation."""
    every = breaks(manifest_of(kept))
    rows = go_through(lab, kept, every)
    if place := os.environ.get("DRIFT_TABLE"):
        Path(place).write_text(json.dumps(rows, indent=1))


def go_through(lab: Lab, host: Host, chosen: list[Break]) -> list[dict[str, str]]:
    """Break, check, deploy, check again; all that went wrong is told at the end."""
    wrong: list[str] = []
    rows: list[dict[str, str]] = []
    for group in batches(chosen, seed=SEED):
        for one in group:
            one.apply(host)
        checked = drift(lab, host.name)
        found = checked.findings(host.name)
        for one in group:
            seen = (one.finding, one.at) in found
            rows.append({"kind": one.kind, "change": one.change, "class": one.finding})
            if not seen:
                wrong.append(f"{one.id}: expected {one.finding}, found {found}")
        if checked.returncode != 2:
            wrong.append(f"{[one.id for one in group]}: exit {checked.returncode}: {checked}")
        deploy(lab, host.name)
        after = drift(lab, host.name)
        if after.returncode != 0:
            wrong.append(f"{[one.id for one in group]}: not repaired: {after.findings(host.name)}")
    assert not wrong, "\n".join(wrong)
    return rows
