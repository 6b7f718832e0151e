"""A deploy that dies anywhere is finished by the next one."""

from __future__ import annotations

import os
import random
import time
import traceback
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from lab import Lab
from lab.models import MODELS
from manifest.manifest import Manifest
from tests.deploys.interrupting import KINDS, SIGNS, Point, Sent, interrupted, points, traced
from tests.deploys.looking import differences, probe, serves, stamp
from tests.deploys.states import UNDONE, States, deploy_tiny

pytestmark = pytest.mark.lab

SAMPLE = 20
WORKERS = os.cpu_count() or 1
DOCS = Path(__file__).parents[2] / "docs/interruptions.md"


@pytest.fixture(scope="module")
def undisturbed(lab: Lab, states: States) -> Manifest:
    """The probe of a host that was deployed to without any disturbance."""
    host = lab.boot("undisturbed", layers=states["serving"])
    run = deploy_tiny(lab, "--limit", host.name)
    assert run.changed == {}
    applied = stamp(host).applied
    assert applied
    found = probe(host, applied)
    host.destroy()
    return found


class Traces(dict[str, list[Sent]]):
    """The commands of an undisturbed deploy from each state."""

    def __init__(self, lab: Lab, states: States, undisturbed: Manifest) -> None:
        super().__init__()
        self._lab, self._states, self._undisturbed = lab, states, undisturbed

    def __missing__(self, state: str) -> list[Sent]:
        host = self._lab.boot("traced", layers=self._states[state])
        self[state] = traced(self._lab, host.name)
        assert differences(host, self._undisturbed) == []
        host.destroy()
        return self[state]


@pytest.fixture(scope="module")
def traces(lab: Lab, states: States, undisturbed: Manifest) -> Traces:
    return Traces(lab, states, undisturbed)


@pytest.fixture(scope="module")
def everywhere(traces: Traces) -> list[Point]:
    """Every point of every kind, in an order that is always the same."""
    return [one for kind in KINDS for state in UNDONE for one in points(state, traces[state], kind)]


@pytest.fixture(scope="module")
def sample(everywhere: list[Point], seed: int) -> list[Point]:
    """Some points, others with another seed; each sign is among them, killed or cut off."""
    chance = random.Random(seed)
    signs = [one for one in everywhere if one.where in SIGNS]
    chosen = [chance.choice([one for one in signs if one.where == sign]) for sign in SIGNS]
    rest = [one for one in everywhere if one.where not in SIGNS]
    return chosen + chance.sample(rest, SAMPLE - len(chosen))


@pytest.mark.parametrize("number", range(SAMPLE))
def test_what_was_interrupted_is_finished_by_the_next_run(
    lab: Lab,
    states: States,
    traces: Traces,
    undisturbed: Manifest,
    sample: list[Point],
    number: int,
) -> None:
    """The host serves and equals one that was never disturbed; a few get a further run."""
    recovers(lab, states, traces, undisturbed, sample[number], further=number % 5 == 0)


@pytest.mark.soak
def test_every_interruption_is_finished_by_the_next_run(
    states: States, traces: Traces, undisturbed: Manifest, everywhere: list[Point]
) -> None:
    """At every point: between any two commands, within every upload, sync and download.

    A bare host is not broken off at each: its deploy has no operation that the others lack.
    """
    waiting, of = deque(everywhere), len(everywhere)
    done: list[tuple[Point, float, str]] = []

    def go_through() -> None:
        """Take points until none is left, on hosts of a lab of its own."""
        with Lab() as own, suppress(IndexError):
            own.serve_models({name: make() for name, make in MODELS.items()})
            while True:
                point, began, wrong = waiting.popleft(), time.monotonic(), ""
                try:
                    recovers(own, states, traces, undisturbed, point, further=True)
                except Exception as error:  # noqa: BLE001  # whatever it is, the others are tried
                    at = traceback.extract_tb(error.__traceback__)[-1]
                    wrong = (
                        f"{type(error).__name__}: {error} ({at.filename}:{at.lineno}: {at.line})"
                    )
                done.append((point, time.monotonic() - began, wrong))
                print(f"{len(done)} of {of}: {point}: {wrong or 'finished'}", flush=True)
                DOCS.write_text(table(done, of=of, further=len(done)))

    with ThreadPoolExecutor() as pool:
        for each in [pool.submit(go_through) for _ in range(WORKERS)]:
            each.result()
    assert len(done) == of
    bare = {one.operation for one in traces["bare"] if not one.looks}
    assert bare <= {one.operation for one in everywhere}
    assert [f"{point}: {wrong}" for point, _, wrong in done if wrong] == []


HALF_UNPACKED = r"""
apt-get update -q
apt-get install -q -y --no-install-recommends python3.11-venv
now='Status: install reinstreq half-installed'
sed -i "/^Package: python3.11-venv$/,/^Status/ s/^Status: .*/$now/" /var/lib/dpkg/status
rm /usr/lib/python3.11/ensurepip/__main__.py
"""


def test_a_package_that_was_half_unpacked_is_installed_again(
    lab: Lab, states: States, undisturbed: Manifest
) -> None:
    """A power cut while dpkg unpacks leaves that, now and then; neither apt nor dpkg mends it."""
    host = lab.boot("half-unpacked", layers=states["unprepared"])
    host.root_run(f"set -eu\n{HALF_UNPACKED}", timeout_s=300)
    assert "python3.11-venv" in host.root_run("dpkg --audit").stdout
    run = deploy_tiny(lab, "--limit", host.name)
    assert run.returncode == 0, str(run)
    assert host.root_run("dpkg --audit; dpkg --verify python3.11-venv").stdout == ""
    assert differences(host, undisturbed) == []
    host.destroy()


def recovers(
    lab: Lab,
    states: States,
    traces: Traces,
    undisturbed: Manifest,
    point: Point,
    *,
    further: bool = False,
) -> None:
    """Interrupt, deploy, look; with ``further`` deploy once more, which is to change nothing."""
    print(point)
    durable = point.kind == "power cut"
    host = lab.boot("interrupted", layers=states[point.state], durable=durable)
    try:
        interrupted(lab, host, point, traces[point.state])
        run = deploy_tiny(lab, "--limit", host.name)
        assert run.returncode == 0, f"{point}: the next run: {run}"
        assert serves(host)
        assert differences(host, undisturbed) == []
        assert stamp(host).finished
        if further:
            again = deploy_tiny(lab, "--limit", host.name)
            assert (again.returncode, again.changed) == (0, {}), f"{point}: a further run: {again}"
    finally:
        host.destroy()


def table(done: list[tuple[Point, float, str]], *, of: int, further: int) -> str:
    """Make the page of it, a row for each operation of a deploy."""
    rows: dict[tuple[str, str], dict[str, Counter[bool]]] = {}
    for point, _, wrong in done:
        kinds = rows.setdefault((point.operation, point.state), {kind: Counter() for kind in KINDS})
        kinds[point.kind][not wrong] += 1
    lines = [
        " | ".join(["", operation.replace(" | ", ": "), state, *map(_share, kinds.values()), ""])
        for (operation, state), kinds in rows.items()
    ]
    whole = sum(seconds for _, seconds, _ in done)
    return PAGE.format(
        rows="\n".join(line.strip() for line in lines),
        signs="\n".join(
            f"- {sign} ({SIGNS[sign].operation.replace(' | ', ': ')})" for sign in SIGNS
        ),
        count=len(done),
        of=of,
        further=further,
        finished=sum(not wrong for *_, wrong in done),
        minutes=round(whole / 60),
    )


def _share(outcomes: Counter[bool]) -> str:
    return f"{outcomes[True]} of {outcomes.total()}" if outcomes else ""


PAGE = """\
# Interruptions

A deploy is interrupted at a point of its course; then one plain run follows. Right is: that run
succeeds, the model generates, and the host's probe over the whole manifest equals that of a host
that was never disturbed; some get a further run, which is to change nothing.

This page is made by `pytest --soak tests/deploys/test_interruptions.py`, which goes through all the
points; without `--soak` twenty are tried, others with each `--seed`. The points come from a trace
of the commands that an undisturbed deploy sends: before each that can change something, in the
middle of each upload, and after the last. Some commands take long, and are interrupted on a sign
of theirs that is to be seen on the host's disk:

{signs}

Two things happen: pyinfra is killed (SIGKILL; the host lives on, with whatever was begun there),
and the host's power is cut (what was not synced is lost: an ext4 that is shut down without its
journal flushed). Each deploy starts on a host that lacks a part, so that the time goes into it.

Of {of} points {count} were tried when this page was made (in {minutes} minutes), and {finished} of
those were finished by the next run ({further} got a further one, which changed nothing):

| while | on a host | pyinfra killed | power cut |
|---|---|---|---|
{rows}

What this found, mended since:

- A power cut left uv's cache with wheels that had holes, and uv believed it in every later run: a
  build now begins without the cache of one that died.
- What a killed pyinfra had begun went on and wrote into the next run's build: what holds a deploy's
  lock on the host now ends the rest of its login session before it lets go.
- A power cut left a package half unpacked, which neither apt nor dpkg mends: it is installed again.
- In the full run of 2026-11-23 two of the 222 points were not reached, since systemd, trying again
  and again, had started the unit before the deploy did. The unit is down in every starting state
  now, and the two were tried again.
"""
