"""The stamp: written and read again, and what is torn or another's is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifest.manifest import Manifest
from manifest.resources import Package, Resource
from manifest.stamp import Run, Stamp, StampError, loads
from tasks.stamp import this_run
from tests.manifest.every import MANIFESTS, WORDS

RUNS = st.builds(Run, operator=WORDS, time=WORDS, commit=WORDS)
MAYBE = st.none() | MANIFESTS
BOUNDS = st.none() | st.dictionaries(WORDS, WORDS, max_size=3)
STAMPS = st.builds(Stamp, run=RUNS, applied=MAYBE, intended=MAYBE, bound=BOUNDS)
RUN = Run(operator="me", time="2026-11-22T21:00:00+00:00", commit="abc")


@given(STAMPS)
def test_what_is_written_is_read_again(stamp: Stamp) -> None:
    """Any stamp survives its file, which ends with a newline."""
    text = stamp.dumps()
    assert loads(text) == stamp
    assert text.endswith("}\n")


@given(STAMPS, st.data())
def test_a_torn_stamp_is_refused(stamp: Stamp, data: st.DataObject) -> None:
    """Cut off anywhere before its last brace, it is not read as another stamp."""
    text = stamp.dumps()
    length = data.draw(st.integers(0, len(text) - 2))
    with pytest.raises(StampError, match="not readable"):
        loads(text[:length])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not readable"),
        ("[]", "not readable"),
        ("{}", "not readable"),
        ('{"version": 2}', "version 2, this program reads 1"),
        ('{"version": 1}', "not readable"),
        ('{"version": 1, "run": {}, "applied": 3, "intended": null}', "not read"),
    ],
)
def test_what_is_no_stamp_of_ours_is_refused(text: str, why: str) -> None:
    """Another version's, another program's, a hand's: each says why."""
    with pytest.raises(StampError, match=why):
        loads(text)


@given(STAMPS)
def test_no_missing_key_is_passed_over(stamp: Stamp) -> None:
    """A stamp without one of its keys is not read."""
    data = json.loads(stamp.dumps())
    for key in data.keys() - {"bound"}:  # stamps of before have none
        with pytest.raises(StampError):
            loads(json.dumps({name: value for name, value in data.items() if name != key}))


def test_an_intention_lasts_until_the_run_is_done() -> None:
    """What a run intends stands beside what the last one applied, until it is applied itself."""
    old, new = Manifest((Package(name="a"),)), Manifest((Package(name="b"),))
    before = Stamp(run=RUN, applied=old)
    during = before.intend(Run(operator="you", time="later", commit="def"), new, {"cpu": "1"})
    assert (before.finished, during.finished) == (True, False)
    assert (during.applied, during.intended, during.run.operator) == (old, new, "you")
    assert [one.id for one in during.everything()] == ["a", "b"]


def test_what_a_dead_run_may_have_made_is_remembered() -> None:
    """It died, and the inventory went back: the next run, dead or not, clears away what it made."""
    both, dead_alone = Package(name="a"), Package(name="b")
    old, dead = Manifest((both,)), Manifest((replace(both, installed=None), dead_alone))
    died = Stamp(run=RUN, applied=old).intend(RUN, dead, {})
    back = died.intend(RUN, old, {})
    assert dead_alone in back.everything()
    assert dead_alone in back.intend(RUN, old, {}).everything()
    assert Stamp(run=RUN).intend(RUN, dead, {}).intend(RUN, old, {}).applied == Manifest(
        (dead_alone,)
    )


def test_a_run_begun_again_leaves_what_was_applied_as_it_is() -> None:
    """What is still declared counts as applied in the form that was: the rest was only intended."""
    old, new = Manifest((Package(name="a"),)), Manifest((Package(name="a", installed=None),))
    died = Stamp(run=RUN, applied=old).intend(RUN, new, {})
    assert died.intend(RUN, new, {}).applied == old
    assert Stamp(run=RUN).intend(RUN, new, {}).intend(RUN, new, {}).applied is None


@given(MAYBE, MAYBE)
def test_everything_holds_each_resource_once(
    applied: Manifest | None, intended: Manifest | None
) -> None:
    """All that may be on the host: of what is in both, the intended form."""
    everything = Stamp(run=RUN, applied=applied, intended=intended).everything().by_address()
    last: dict[str, Resource] = {}
    for manifest in (applied, intended):
        last |= manifest.by_address() if manifest else {}
    assert everything == last


def test_a_run_without_git_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine may have no git: a deploy goes on."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert this_run.__wrapped__().commit == "not a git checkout"
