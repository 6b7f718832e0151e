"""The host's own record of what was intended and what was done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pyinfra import host, state
from pyinfra.api import FunctionCommand, Host, QuoteString, State, StringCommand, operation
from pyinfra.api.state import StateStage

from facts.probe import Answer, look
from manifest import layout
from manifest.difference import diff
from manifest.manifest import Manifest
from manifest.resources import Directory, File, Unit
from manifest.stamp import Run, Stamp, StampError, loads
from operations.convergence import Command, Commands, refuse, script
from operations.files import make, remove, write


@operation()
def intended(run: Run, manifest: Manifest, bound: Mapping[str, Any]) -> Commands:
    """
    Ensure that, before anything is changed, the host says what is about to be.

    + run: who, when, from which commit
    + manifest: what is declared
    + bound: what preflight settled, as plain JSON
    """
    answer = look(manifest)
    if answer is None:
        yield FunctionCommand(refuse, ("stamp: the host did not answer the probe",), {})
        return
    stamp = read(answer)
    if stamp and _says(stamp, manifest) and _same(manifest, answer):
        host.noop("stamp: everything is as declared")
        return
    yield from _write((stamp or Stamp(run=run)).intend(run, manifest, bound))


@operation()
def applied(run: Run, manifest: Manifest, bound: Mapping[str, Any]) -> Commands:
    """
    Ensure that, when everything is as declared, the host says so; fail where it is not.

    + run: who, when, from which commit
    + manifest: what is declared
    + bound: what preflight settled, as plain JSON
    """
    answer = look(manifest)
    if answer is None:
        yield FunctionCommand(refuse, ("stamp: the host did not answer the probe",), {})
        return
    stamp = read(answer)
    if stamp and _says(stamp, manifest):
        host.noop("stamp: says what is declared")
        return
    # Looked at again when the command runs: while pyinfra plans, nothing has been changed yet.
    yield FunctionCommand(_verify, (manifest,), {})
    yield from _write(Stamp(run=run, applied=manifest, bound=bound))


def read(answer: Answer) -> Stamp | None:
    """Read the host's stamp; None where it has none, or one that cannot be read."""
    try:
        return loads(answer.stamp) if answer.stamp else None
    except StampError:
        return None


def _says(stamp: Stamp, manifest: Manifest) -> bool:
    return stamp.finished and stamp.applied == manifest and stamp.bound is not None


def _same(manifest: Manifest, answer: Answer) -> bool:
    return not answer.problems and not diff(manifest, answer.manifest)


def _verify(state: State, host: Host, manifest: Manifest) -> bool:
    answer = look(manifest)
    if answer is None:
        return refuse(state, host, "stamp: the host did not answer the probe")
    left = [*answer.problems, *map(str, diff(manifest, answer.manifest))]
    if not left:
        return True
    lines = "\n".join(["after the run the host is still not as declared:", *left])
    return refuse(state, host, lines)


def _write(stamp: Stamp) -> Iterator[Command]:
    text = stamp.dumps()
    # The first thing on a bare host: its directory is not there yet, or a link stands in its place.
    yield make(layout.ETC)
    yield write(File(path=layout.STAMP), text)


@operation()
def outlived(manifest: Manifest) -> Commands:
    """
    Ensure that nothing is left of what earlier runs made and nobody declares any more.

    + manifest: what is declared

    What those runs made stands in the stamp. Files and units go; users, packages and models'
    weights stay, since others may have come to need them.
    """
    answer = look(manifest)
    stamp = read(answer) if answer else None
    declared = manifest.by_address()
    gone = [one for one in (stamp.everything() if stamp else ()) if one.address not in declared]
    left = look([one for one in gone if isinstance(one, File | Unit)]) if gone else None
    if not left or not len(left.manifest):
        host.noop("stamp: nothing of earlier runs is left")
        return
    for one in left.manifest:
        if isinstance(one, Unit):
            yield StringCommand("systemctl disable --now --quiet", QuoteString(one.id))
    for one in left.manifest:
        if isinstance(one, File):
            yield remove(one.path)
    for one in gone:
        if isinstance(one, Directory):
            yield script(
                'if [ -d "$1" ]; then rmdir --ignore-fail-on-non-empty -- "$1"; fi', one.path
            )
    yield StringCommand("systemctl daemon-reload")


@operation()
def refused(refusals: Sequence[str]) -> Commands:
    """
    Fail the host at the end of its run for the models that it was asked for and cannot serve.

    + refusals: a sentence for each

    Not a change, and so not in a plan; the run's exit status tells, after what does fit is served.
    """
    if state.current_stage == StateStage.Execute:
        yield FunctionCommand(refuse, ("\n".join(["not served:", *refusals]),), {})
    else:
        host.noop("says what does not fit when the run ends")
