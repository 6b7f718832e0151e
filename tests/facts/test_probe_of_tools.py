"""What the probe makes of the host's own tools where they fail, and of a deploy meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest

from manifest.resources import Hold, Package, Resource, Unit, UnitSet
from tests.facts.probing import probed

UNIT = Unit(name="m@a.0.service", enabled="enabled", active="active", fragment="/etc/m@.service")


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
    answer = probed(tmp_path, resources, tool, "echo 'no bus' >&2; exit 1")
    assert answer["resources"] == []
    assert len(answer["problems"]) == len(resources)
    assert all(f"{tool}: exit status 1: no bus" in line for line in answer["problems"])


def test_a_deploy_that_ends_meanwhile_is_told(tmp_path: Path) -> None:
    """What was looked at is what the stamp said at first; the host may be another since."""
    (tmp_path / "stamp.json").write_text("before")
    resources = (Package(name="a"),)
    still = probed(tmp_path, resources, "dpkg-query", "true")
    assert (still["stamp"], still["deploying"]) == ("before", None)
    deploy = f"printf after >{tmp_path}/stamp.json"
    answer = probed(tmp_path, resources, "dpkg-query", deploy)
    assert answer["stamp"] == "before"
    assert answer["deploying"]
