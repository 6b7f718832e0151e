"""Changes that somebody thought of: found under the right name, and repaired."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from lab import Lab
from tests.drift.by_hand import CATALOGUE
from tests.drift.proving import prove
from tests.drift.test_catalogue import SEED

pytestmark = pytest.mark.lab

SAMPLE = random.Random(SEED).sample(CATALOGUE, 6)


def test_a_sample_is_found_and_repaired(lab: Lab, nonsense: list[Path]) -> None:
    """A few of them, others every day."""
    print(f"DRIFT_SEED={SEED}")
    prove(lab, nonsense, [[one] for one in SAMPLE])


@pytest.mark.soak
def test_all_are_found_and_repaired(lab: Lab, nonsense: list[Path]) -> None:
    """Every one of them, each alone on its host."""
    prove(lab, nonsense, [[one] for one in CATALOGUE])
