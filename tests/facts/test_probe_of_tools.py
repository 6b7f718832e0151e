"""What the probe makes of the host's own tools where they fail, and of a deploy meanwhile."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from facts.probe import question
from manifest.resources import Hold, Package, Resource, Unit, UnitSet

UNIT = Unit(name="m@a.0.service", enabled="enabled", active="active", fragment="/etc/m@.service")


def asked(place: Path, resources: tuple[Resource, ...], tool: str, script: str) -> dict[str, Any]:
    """Answer the probe on a host with this ``tool``."""
    stand_in = place / tool
    stand_in.write_text(f"#!/bin/sh\n{script}\n")
    stand_in.chmod(0o755)
    told = subprocess.run(
        [sys.executable, "-I", "-"],
        input=question(resources).replace("/etc/mlx-hosts/stamp.json", f"{place}/stamp.json"),
        env={"PATH": f"{place}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    answer: dict[str, Any] = json.loads(told)
    return answer


@pytest.mark.parametrize(
    ("tool", "resources"),
    [
        ("systemctl", (UNIT, UnitSet(pattern="m@*", names=("m@a.0.service",)))),
        ("dpkg-query", (Package(name="a"), Hold(pattern="nvidia-.*"))),
    ],
)
def test_a_tool_that_fails_is_not_that_nothing_is_there(
    tmp_path: Path, tool: str, resources: tuple[Resource, ...]
) -> None:
    """Nothing is said but that nothing is known."""
    answer = asked(tmp_path, resources, tool, "echo 'no bus' >&2; exit 1")
    assert answer["resources"] == []
    assert len(answer["problems"]) == len(resources)
    assert all(f"{tool}: exit status 1: no bus" in line for line in answer["problems"])


def test_a_deploy_that_ends_meanwhile_is_told(tmp_path: Path) -> None:
    """What was looked at is what the stamp said at first; the host may be another since."""
    (tmp_path / "stamp.json").write_text("before")
    resources = (Package(name="a"),)
    still = asked(tmp_path, resources, "dpkg-query", "true")
    assert (still["stamp"], still["deploying"]) == ("before", None)
    deploy = f"printf after >{tmp_path}/stamp.json"
    answer = asked(tmp_path, resources, "dpkg-query", deploy)
    assert answer["stamp"] == "before"
    assert answer["deploying"]
