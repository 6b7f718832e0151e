"""Runs that are killed anywhere leave nothing that the next one does not remove."""

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lab.lab import sweep
from tests.lab.traces import traces

PROJECT = Path(__file__).parents[2]

# A bit of everything: a hub, a durable host, a snapshot, power cuts, a rebuild, a removal.
PROGRAM = """
from lab import Lab
with Lab() as lab:
    print(lab.id, flush=True)
    lab.serve_models({})
    first = lab.boot("first", durable=True)
    second = lab.boot("second", layers=first.snapshot())
    second.power_cut()
    first.power_cut()
    second.new_identity()
    first.destroy()
"""


def kill_after(seconds: float) -> None:
    """Run the program, kill it, sweep, and find nothing."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], cwd=PROJECT, stdout=subprocess.PIPE, text=True
    ) as program:
        time.sleep(seconds)
        program.kill()
        told, _ = program.communicate(timeout=10)
    sweep()
    deadline = time.monotonic() + 20
    # Another test process may be sweeping it at this moment.
    while told.strip() and traces(told.strip()) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not told.strip() or traces(told.strip()) == []


@pytest.mark.lab
@pytest.mark.parametrize("seconds", [0.9, 2.5])
def test_a_run_killed_early_or_late_is_cleared_away(seconds: float) -> None:
    """While the first host boots, and in the middle of the rest."""
    kill_after(seconds)


@pytest.mark.lab
@pytest.mark.soak
@pytest.mark.parametrize("number", range(40))
def test_a_run_killed_at_any_moment_is_cleared_away(number: int) -> None:
    """Forty moments of the five seconds that the program takes."""
    kill_after(random.Random(number).uniform(0.1, 5))
