"""The verdicts on every host that was ever thought of, and the table of them in the docs."""

import os

import pytest

from planner import verdict
from planner.bound import Bound
from tests.preflight.cases import ALL, Case
from tests.preflight.table import BEGIN, END, PAGE, verdicts

GO_ON = {
    "Debian 12, no GPU, `flavour: cpu`": "cpu",
    "Debian 13, no GPU, `flavour: cpu`": "cpu",
    "Ubuntu 24.04, two cards": "cuda13",
    "Ubuntu 22.04, two cards, an interpreter given": "cuda13",
    "1 x H200, driver 580.159.04": "cuda13",
    "1 x T4, driver 550.54.15": "cuda12",
    "2 x RTX 5090, driver 610.57.04, whose table has another header": "cuda13",
    "2 x RTX PRO 6000 Blackwell, driver 580.95.05, open modules": "cuda13",
    "8 x H100 behind 4 NVSwitches, driver 580.95.05, fabric manager running": "cuda13",
    "the two cards as declared": "cuda13",
    "its own `fabric` address": "cuda13",
    "two cards, `flavour: cuda12`": "cuda12",
    "two cards, `flavour: cpu`": "cpu",
    "a card of which others may hold 45 GiB": "cuda13",
}


def judge(case: Case) -> tuple[str, ...]:
    """Give what the case is refused for, as printed."""
    return tuple(map(str, verdict.judge(case.found(), case.host, room=case.room)))


@pytest.mark.parametrize("case", ALL.values(), ids=ALL)
def test_who_goes_on_and_with_what(case: Case):
    """Nobody goes on who is not named here, and nobody who is named is refused."""
    refusals = judge(case)
    assert bool(refusals) == (case.title not in GO_ON), refusals
    assert verdict.flavour(case.found(), case.host) == GO_ON.get(case.title) or refusals


@pytest.mark.parametrize("case", ALL.values(), ids=ALL)
def test_everything_is_read(case: Case):
    """No section of any host's answer is unreadable."""
    assert case.found().unread == ()


def test_the_page_holds_these_verdicts():
    """`docs/preflight.md` says what the code does; UPDATE=1 writes it."""
    head, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, tail = rest.partition(END)
    page = f"{head}{BEGIN}\n{verdicts()}\n{END}{tail}"
    if os.environ.get("UPDATE"):
        PAGE.write_text(page)
    assert PAGE.read_text() == page


def test_everything_wrong_is_told_at_once():
    """Debian 11 is refused for its release, its C library, its systemd and its Python together."""
    refusals = judge(ALL["Debian 11, no GPU, `flavour: cpu`"])
    needed = [refusal.split(";")[0] for refusal in refusals]
    assert [word for line in needed for word in ("Debian", "glibc", "systemd", "Python") if word in
            line.split(" or newer")[0]] == ["Debian", "glibc", "systemd", "Python"]  # fmt: skip


def test_b300_and_v100_are_refused_for_their_kernels():
    """Not for their age or their driver: the wheel has no code that they can run."""
    for title, capability in (
        ("1 x B300, driver 580.95.05", "10.3"),
        ("1 x V100, driver 580.95.05 (the last branch that drives Volta)", "7.0"),
    ):
        (refusal,) = judge(ALL[title])
        assert "sm_100a" in refusal
        assert f"compute capability {capability}" in refusal


def test_gpus_are_bound_by_uuid_in_pci_order():
    """What a later task needs of a GPU is in the binding, as the driver said it."""
    case = ALL["2 x RTX PRO 6000 Blackwell, driver 580.95.05, open modules"]
    bound = verdict.bind(case.found(), case.host)
    assert [gpu.pci for gpu in bound.gpus] == ["00000000:01:00.0", "00000000:c1:00.0"]
    assert bound.gpus[1].uuid == "GPU-51b00001-0000-4000-8000-000000000001"
    assert bound.gpus[1].memory_bytes == 97887 * 1024**2
    assert (bound.driver, bound.cuda) == ("580.95.05", "13.0")
    assert Bound(**{**bound.to_json(), "gpus": bound.gpus}) == bound


def test_a_cpu_host_has_no_gpus_even_if_there_are_some():
    """What is declared to serve from its CPU does not touch the cards beside it."""
    case = ALL["two cards, `flavour: cpu`"]
    assert verdict.bind(case.found(), case.host).gpus == ()


def test_what_was_not_read_is_a_reason_too():
    """A host whose answer has holes is not waved through."""
    case = ALL["Debian 12, no GPU, `flavour: cpu`"]
    cut = [line for line in case.lines() if not line.startswith("== glibc")]
    found = type(case.found())(unread=("glibc: the host gave no answer",))
    assert cut
    assert "glibc" in str(verdict.judge(found, case.host)[0])
    with pytest.raises(ValueError, match="judge it first"):
        verdict.bind(found, case.host)
