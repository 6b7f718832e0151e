"""What a driver may answer beyond what the simulated hosts show."""

from __future__ import annotations

from dataclasses import replace

import pytest

from planner import driver_verdict
from planner.declared import Host
from planner.found import HostFacts, Smi
from tests.preflight.cases import ALL

CASE = ALL["2 x RTX PRO 6000 Blackwell, driver 580.95.05, open modules"]


def refusals(smi: Smi, *, open_module: bool = True) -> list[str]:
    """Give what is printed where the two-card host's `nvidia-smi` answers so."""
    found: HostFacts = CASE.found()
    assert found.kernel_module is not None
    module = replace(found.kernel_module, open=open_module)
    found = replace(found, smi=smi, kernel_module=module)
    return [str(refusal) for refusal in driver_verdict.judge(found, Host(name="gpu-1"))]


@pytest.mark.parametrize(
    ("smi", "told"),
    [
        # Lost while a process watched it: the program ends well, the row says it.
        (Smi(status=0, lost=("1, GPU-x, [GPU is lost]",)), "[GPU is lost]"),
        (Smi(status=255, said="Unable to determine the device handle for GPU"), "0 of 2 NVIDIA"),
        # The open module drives these cards: no device is another fault than the wrong module.
        (Smi(status=6, said="No devices were found"), "exit status 6: No devices were found"),
        (Smi(status=127, said="sh: 1: nvidia-smi: not found"), "repair the driver"),
        (Smi(status=18, said="Driver/library version mismatch"), "libraries of another"),
        (Smi(status=14), "exit status 14: no message"),
        (Smi(status=None), "hung"),
    ],
)
def test_an_answer_that_is_none_is_told_as_it_came(smi: Smi, told: str):
    """One reason each, with the program's own words in it."""
    (refusal,) = refusals(smi)
    assert told in refusal


def test_a_driver_that_was_not_read_is_not_judged_twice():
    """That it could not be read is said elsewhere."""
    assert list(driver_verdict.judge(HostFacts(), Host(name="gpu-1"))) == []


def test_a_driver_that_answers_is_not_refused():
    """The case that all of these are made from."""
    smi = CASE.found().smi
    assert smi is not None
    assert refusals(smi) == []
    assert refusals(smi, open_module=False) == [], "a driver that drives its cards is right"
