"""A mask makes systemd deaf to a unit's signs of life, and it kills what runs of it."""

from __future__ import annotations

import time

import pytest

from lab import Host, Lab
from tests.drift.checking import deploy, drift

UNIT = "mlx-model@nonsense.0.service"
pytestmark = pytest.mark.lab


@pytest.mark.parametrize("seconds", [pytest.param(1, marks=pytest.mark.soak), 18])
def test_a_masked_unit_serves_again_whenever_it_is_found(
    lab: Lab, kept: Host, seconds: float
) -> None:
    """Before the watchdog's 20 s are over, or as they end while the deploy is at it."""
    kept.root_run(f"systemctl mask --runtime --quiet {UNIT}")
    time.sleep(seconds)
    deploy(lab, kept.name)
    time.sleep(25)  # a watchdog that was armed with the mask would have bitten
    assert kept.root_run(f"systemctl is-active {UNIT}").stdout.strip() == "active"
    assert drift(lab, kept.name).returncode == 0
