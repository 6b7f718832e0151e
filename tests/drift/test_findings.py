"""What of three manifests is drift, of which class, and what is none."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import Any

import pytest

from manifest.findings import Finding, compare
from manifest.judgement import judge
from manifest.manifest import Manifest
from manifest.resources import (
    Directory,
    File,
    Instance,
    Reboot,
    Resource,
    Sockets,
    Unit,
)
from manifest.stamp import Run, Stamp
from manifest.tolerance import Tolerance, sorted_out

RUN = Run(operator="ops@desk", time="2026-11-22T12:00:00+00:00", commit="0" * 40)
FILE = File(path="/etc/mlx-hosts/a.json", sha256="aa")
UNIT = Unit(name="mlx-model@m.0.service", enabled="enabled", active="active", drop_ins=("/a",))
INSTANCE = Instance(name="m.0", inputs="11")


def found(
    declared: list[Resource],
    applied: list[Resource] | None,
    live: list[Resource],
    intended: list[Resource] | None = None,
    **options: Any,
) -> list[tuple[str, str, str | None]]:
    """Compare, and give class, address and attribute of each finding."""
    stamp = Stamp(
        run=RUN,
        applied=None if applied is None else Manifest(tuple(applied)),
        intended=None if intended is None else Manifest(tuple(intended)),
    )
    quiet = Reboot(pending=False)
    findings = compare(declared, stamp, Manifest((*live, quiet)), **options)
    return [(one.cause, one.address, one.attribute) for one in findings]


def test_what_is_as_declared_is_no_finding() -> None:
    """Three equal manifests have no difference."""
    assert found([FILE, UNIT], [FILE, UNIT], [FILE, UNIT]) == []


def test_what_a_hand_changed_is_told_from_what_was_not_rolled_out() -> None:
    """Other than applied: a hand. As applied, and declared otherwise since: not rolled out."""
    changed, newer = replace(FILE, sha256="bb"), replace(FILE, sha256="cc")
    address = FILE.address
    assert found([FILE], [FILE], [changed]) == [("changed by hand", address, "sha256")]
    assert found([newer], [FILE], [FILE]) == [("not rolled out", address, "sha256")]
    assert found([newer], [FILE], [changed]) == [("changed by hand", address, "sha256")]
    assert found([newer], [FILE], [newer]) == []


def test_what_is_gone_is_told_from_what_never_came() -> None:
    """Applied and not there: missing. Never applied: not rolled out, or of a run that died."""
    assert found([FILE], [FILE], []) == [("missing", FILE.address, None)]
    assert found([FILE], [], []) == [("not rolled out", FILE.address, None)]
    assert found([FILE], None, [], [FILE]) == [("run not finished", FILE.address, None)]


def test_what_a_dead_run_left_half_done_is_its_own_class() -> None:
    """What the run was to change is not blamed on a hand; what it was not to change is."""
    newer, other = replace(FILE, sha256="cc"), File(path="/b", sha256="dd")
    half = replace(FILE, sha256="ee")
    assert found([newer], [FILE], [FILE], [newer]) == [("run not finished", FILE.address, "sha256")]
    assert found([newer], [FILE], [half], [newer]) == [("run not finished", FILE.address, "sha256")]
    by_hand = found(
        [newer, other], [FILE, other], [newer, replace(other, mode="0600")], [newer, other]
    )
    assert by_hand == [("changed by hand", other.address, "mode")]


def test_a_second_run_that_dies_blames_no_hand() -> None:
    """Two runs were to make it newer and died before they came to it; a third, to go back."""
    newer = replace(FILE, sha256="cc")
    own = File(path="/b", sha256="dd")
    stamp = Stamp(run=RUN, applied=Manifest((FILE,)))
    for _ in range(2):
        stamp = stamp.intend(RUN, Manifest((newer, own)), {})
    live = Manifest((FILE, Reboot(pending=False)))
    causes = {one.cause for one in compare([newer, own], stamp, live)}
    assert causes == {"run not finished"}
    back = stamp.intend(RUN, Manifest((FILE,)), {})
    left = Manifest((FILE, own, Reboot(pending=False)))
    assert [(one.address, one.note) for one in compare([FILE], back, left)] == [
        (own.address, "no longer declared")
    ]


def test_strangers_are_unmanaged_and_lost_members_missing() -> None:
    """Of what is a set, one too many is nobody's; one too few is missing."""
    more, less = replace(UNIT, drop_ins=("/a", "/z")), replace(UNIT, drop_ins=())
    assert found([UNIT], [UNIT], [more]) == [("unmanaged", UNIT.address, "drop_ins")]
    assert found([UNIT], [UNIT], [less]) == [("missing", UNIT.address, "drop_ins")]
    sockets = Sockets(user="mlx")
    assert found([sockets], [sockets], [Sockets(user="mlx", ports=(80,))]) == [
        ("unmanaged", "sockets:mlx", "ports")
    ]


def test_a_file_that_lacks_is_said_once() -> None:
    """A directory does not repeat what the file that it lacks says itself."""
    folder = Directory(path="/etc/mlx-hosts", entries=("a.json",))
    empty = replace(folder, entries=())
    assert found([folder, FILE], [folder, FILE], [empty]) == [("missing", FILE.address, None)]


def test_something_else_in_its_place_is_one_finding() -> None:
    """A link where a file belongs has no mode or content to compare."""
    link = File(path=FILE.path, instead="a link to /tmp/x", mode=None, owner=None, group=None)
    assert found([FILE], [FILE], [link]) == [("changed by hand", FILE.address, "instead")]


@pytest.mark.parametrize("active", ["inactive", "failed", "activating"])
def test_a_unit_that_is_down_speaks_for_its_instance(active: str) -> None:
    """That the instance is not there either goes without saying."""
    down = replace(UNIT, active=active)
    both = [UNIT, INSTANCE]
    assert found(both, both, [down]) == [("changed by hand", UNIT.address, "active")]


def test_a_unit_on_its_way_up_is_no_drift() -> None:
    """A host that has just booted is as declared while its model loads."""
    both = [UNIT, INSTANCE]
    loading = [replace(UNIT, active="starting"), replace(INSTANCE, state="loading")]
    assert found(both, both, loading) == []
    assert found(both, both, loading[:1]) == []


def test_what_runs_something_older_is_out_of_date() -> None:
    """Wrong inputs, deleted files, a reboot that is due."""
    up = [UNIT, INSTANCE]
    stale = [UNIT, replace(INSTANCE, inputs="99", deleted=True)]
    assert {cause for cause, _, _ in found(up, up, stale)} == {"out of date"}
    due = compare([], Stamp(run=RUN), Manifest((Reboot(pending=True),)))
    assert [(one.cause, one.address) for one in due] == [("out of date", "reboot:host")]


def test_inputs_that_a_run_is_to_bring_are_not_out_of_date() -> None:
    """An instance that runs what was applied waits for a deploy, not for a restart."""
    declared = [UNIT, replace(INSTANCE, inputs="22")]
    up = [UNIT, INSTANCE]
    assert found(declared, up, up) == [("not rolled out", INSTANCE.address, "inputs")]


def test_what_is_declared_no_more_waits_to_be_taken_away() -> None:
    """Files and units of earlier runs that nobody declares now are named."""
    assert found([], [FILE], [FILE]) == [("not rolled out", FILE.address, None)]
    assert found([], [FILE], []) == []


def test_a_model_that_does_not_answer_is_drift_only_when_asked() -> None:
    """`--ask` expects a word; without it nobody does."""
    up, mute = [UNIT, INSTANCE], [UNIT, replace(INSTANCE, answers=False)]
    assert found(up, up, mute) == []
    assert found(up, up, mute, ask=True) == [("changed by hand", INSTANCE.address, "answers")]


FINDING = Finding(cause="unmanaged", kind="unit", id="mlx-model@m.0.service", attribute="drop_ins")


def tolerance(until: str, **changes: Any) -> Tolerance:
    given = {"resource": "unit:mlx-model@*", "attribute": "drop_ins", "reason": "a trial"}
    return Tolerance(**{**given, "until": date.fromisoformat(until), **changes})


def test_what_is_tolerated_is_let_pass_to_the_last_day() -> None:
    """On its last day an exception holds; on the next it is drift, and says what it was."""
    reported, passed = sorted_out([FINDING], [tolerance("2026-11-22")], today=date(2026, 11, 22))
    assert (reported, len(passed)) == ((), 1)
    reported, passed = sorted_out([FINDING], [tolerance("2026-11-22")], today=date(2026, 11, 23))
    assert not passed
    assert "tolerated until 2026-11-22: a trial" in reported[0].note


@pytest.mark.parametrize(
    "other", [{"resource": "unit:other"}, {"attribute": "active"}, {"resource": "file:*"}]
)
def test_an_exception_covers_nothing_else(other: dict[str, str]) -> None:
    """Another resource or attribute is reported as ever."""
    exceptions = [tolerance("2030-01-01", **other)]
    assert sorted_out([FINDING], exceptions, today=date(2026, 11, 22)) == ((FINDING,), ())


def test_what_cannot_be_told_is_never_tolerated() -> None:
    """An exception for everything still lets through that nothing was seen."""
    unknown = replace(FINDING, cause="cannot tell")
    everything = tolerance("2030-01-01", resource="*", attribute=None)
    assert sorted_out([unknown], [everything], today=date(2026, 1, 1)) == ((unknown,), ())


def judged(stamp: str | None, **options: Any) -> Any:
    nothing = Manifest((Reboot(pending=False),))
    declare = lambda given: given.everything()  # noqa: E731
    return judge(stamp, nothing, declare=declare, today=date(2026, 11, 22), **options)


def test_a_stamp_that_is_missing_or_torn_is_drift_and_one_of_another_version_is_unknown() -> None:
    """Each says what it is; none passes for a host as declared."""
    whole = Stamp(run=RUN, applied=Manifest()).dumps()
    assert judged(whole).verdict == "as declared"
    assert [one.cause for one in judged(None).findings] == ["missing"]
    assert [one.cause for one in judged(whole[: len(whole) // 2]).findings] == ["changed by hand"]
    newer = judged(whole.replace('"version": 1', '"version": 99'))
    assert (newer.verdict, newer.findings) == ("cannot tell", ())


@pytest.mark.parametrize("length", range(0, 500, 7))
def test_no_torn_stamp_is_taken_for_a_whole_one(length: int) -> None:
    """Cut anywhere, it is drift."""
    whole = Stamp(run=RUN, applied=Manifest((FILE,))).dumps()
    assert judged(whole[: min(length, len(whole) - 3)]).verdict == "drift"


def test_a_run_that_died_and_one_under_way_are_named() -> None:
    """Who began it, and that it did not end."""
    dead = Stamp(run=RUN, applied=Manifest(), intended=Manifest()).dumps()
    assert [one.cause for one in judged(dead).findings] == ["run not finished"]
    assert "ops@desk" in judged(dead).findings[0].note
    going = judged(Stamp(run=RUN, applied=Manifest()).dumps(), deploying="eve, since noon")
    assert "under way: eve" in going.findings[0].note


def test_what_the_probe_could_not_read_outweighs_drift() -> None:
    """Exit status 1, not 2: what was not seen may hide more."""
    dead = Stamp(run=RUN, applied=Manifest(), intended=Manifest()).dumps()
    assert judged(dead, problems=["file: unreadable"]).verdict == "cannot tell"


def test_an_exception_that_hosts_have_not_heard_of_is_no_drift() -> None:
    """It works at once; only a hand's change to the host's own copy is drift."""
    old, new = File(path="/etc/mlx-hosts/tolerated.json", sha256="1"), "2"
    stamp = Stamp(run=RUN, applied=Manifest((old,))).dumps()
    declare = lambda _: Manifest((replace(old, sha256=new),))  # noqa: E731
    quiet = Reboot(pending=False)
    for sha256, verdict in (("1", "as declared"), ("3", "drift")):
        live = Manifest((replace(old, sha256=sha256), quiet))
        judgement = judge(stamp, live, declare=declare, today=date(2026, 11, 22))
        assert judgement.verdict == verdict
