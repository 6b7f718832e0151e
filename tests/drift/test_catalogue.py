"""Everything we manage, changed in every way it can be: found, named, repaired, gone."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from lab import Host, Lab
from manifest.layout import TOOLS
from manifest.manifest import Manifest
from manifest.stamp import loads
from tests.breaks import Break, breaks, one_of_each
from tests.drift.batches import batches
from tests.drift.checking import deploy, drift
from tests.drift.proving import Change, prove

pytestmark = pytest.mark.lab

SEED = int(os.environ.get("DRIFT_SEED", time.time() // 86400))  # another sample every day
SOAKED_ONLY = {"runtime", "weights", "user", "package"}  # each takes a build or a download


def manifest_of(host: Host) -> Manifest:
    stamp = loads((host.root / "etc/mlx-hosts/stamp.json").read_text())
    assert stamp.applied is not None
    return stamp.applied


def changes(group: list[Break]) -> list[Change]:
    return [Change(id=one.id, script=one.script, finding=one.finding, at=one.at) for one in group]


def test_one_of_each_kind_is_found_and_repaired(lab: Lab, kept: Host, nonsense: list[Path]) -> None:
    """Each kind of change to each kind of resource is named, and a deploy takes all of it away."""
    print(f"DRIFT_SEED={SEED}")
    chosen = one_of_each(breaks(manifest_of(kept)), seed=SEED)
    quick = [one for one in chosen if one.kind not in SOAKED_ONLY]
    prove(lab, nonsense, [changes(group) for group in batches(quick, seed=SEED)])


def test_an_environment_and_weights_are_found_and_repaired(lab: Lab, kept: Host) -> None:
    """One change to each; of environments the smallest, since what repairs it is a build."""
    all_of_them = breaks(manifest_of(kept))
    trees = [one for one in all_of_them if one.kind == "weights" or f"{TOOLS}/" in one.resource]
    trees = [one for one in trees if one.kind in {"runtime", "weights"}]
    chosen = {one.resource: one for one in one_of_each(trees, seed=SEED)}
    for one in chosen.values():
        one.apply(kept)
    found = drift(lab, kept.name).findings(kept.name)
    assert {(one.finding, one.at) for one in chosen.values()} <= found
    deploy(lab, kept.name)
    assert drift(lab, kept.name).returncode == 0


@pytest.mark.soak
def test_the_whole_catalogue_is_found_and_repaired(
    lab: Lab, kept: Host, nonsense: list[Path]
) -> None:
    """Every resource, every kind of change."""
    every = batches(breaks(manifest_of(kept)), seed=SEED)
    prove(lab, nonsense, [changes(group) for group in every])
