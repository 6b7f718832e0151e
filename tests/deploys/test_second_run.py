"""A second run changes nothing, and neither does a host started from what the first one made."""

from pathlib import Path

import pytest

from lab import Lab
from tests.deploying import deploy

pytestmark = pytest.mark.lab


def test_a_second_run_and_a_dry_run_change_nothing(lab: Lab, converged: list[Path]) -> None:
    """Neither ``-y`` nor ``--dry`` finds anything to change on a host that was deployed to."""
    host = lab.boot("again", layers=converged)
    deploy(lab, host.name)
    assert deploy(lab, host.name).changed == {}
    assert deploy(lab, host.name, arguments=("--dry", "--json")).changed == {}
    host.destroy()
