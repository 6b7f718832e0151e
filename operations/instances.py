"""Served models: running from what is declared, and ready."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from pyinfra import host, state
from pyinfra.api import FunctionCommand, QuoteString, StringCommand, operation

from manifest.resources import Instance, Unit
from operations.convergence import Command, Commands, Comparison, converge, refuse
from operations.units import masked, mend, start


@operation()
def ready(ranks: Sequence[Unit | Instance]) -> Commands:
    """
    Ensure that an instance runs from the declared inputs and can generate.

    + ranks: its systemd unit, its inputs' digest and state; of each rank, where it has several

    Started means that a token came: the unit tells systemd so, and this waits for it. It is
    restarted when what it was started from differs from what is declared, whichever run changed
    that, and for no other reason. Ranks come up together or not at all.
    """
    yield from converge("instance", ranks, _start)


@operation()
def parted(ranks: Sequence[Unit | Instance]) -> Commands:
    """
    Ensure that no instance holds memory of a GPU that is planned for another.

    + ranks: as of `ready`, of all instances

    Each that comes up waits until what is planned for it is free: of two that trade places, one
    that is restarted first would wait for the other in vain.
    """
    yield from converge("instances", ranks, _part)


@operation()
def possible(hosts: Sequence[str]) -> Commands:
    """
    Ensure that this run has not lost a host with which the current one serves a model.

    + hosts: their names

    What runs is left as it is where it has, since nothing could take its place.
    """
    lost = sorted(one.name for one in state.failed_hosts if one.name in hosts)
    if lost:
        why = f"serves a model together with {', '.join(lost)}, which failed: nothing is restarted"
        yield FunctionCommand(refuse, (why,), {})
    else:
        host.noop("all hosts of its models are there")


@operation()
def begun(ranks: Sequence[Unit | Instance]) -> Commands:
    """
    Ensure that a host's ranks of a group over several hosts run from the declared inputs.

    + ranks: as of `ready`

    It waits for none of them: they come up with those of the other hosts, which `met` waits for.
    """
    yield from converge("instance", ranks, partial(_start, how=" --no-block"))


@operation()
def met(ranks: Sequence[Unit | Instance]) -> Commands:
    """
    Ensure that a host's ranks of a group over several hosts are up, and a token came.

    + ranks: as of `ready`
    """
    yield from converge("instance", ranks, _wait)


def _part(compared: Comparison) -> Iterator[Command]:
    """Stop what runs from another plan, all at once: others go on until it is their turn."""
    moved = [
        QuoteString(one.unit)
        for one in compared.differing(Instance)
        if {"gpus", "planned_bytes"} & compared.of(one).keys()
    ]
    if moved:
        yield StringCommand("systemctl stop", *moved)


def _wait(compared: Comparison) -> Iterator[Command]:
    yield start("start", *_units(compared))


def _start(compared: Comparison, *, how: str = "") -> Iterator[Command]:
    differs = [compared.of(one) for one in compared.expected if isinstance(one, Instance)]
    units = [one for one in compared.expected if isinstance(one, Unit)]
    if compared.differing(Unit):
        yield from mend(compared)
    stale = any({"", "inputs", "deleted"} & each.keys() for each in differs)
    # Of a masked unit systemd hears no sign of life: it kills what runs of it once the watchdog's
    # time is over, and restarts nothing.
    stale = stale or any(masked(compared.of(unit)) for unit in units)
    if stale or any(differs) or any("active" in compared.of(unit) for unit in units):
        # One that is on its way up with the right inputs is waited for, not begun again.
        yield start(("restart" if stale else "start") + how, *_units(compared))


def _units(compared: Comparison) -> list[str]:
    return [one.name for one in compared.expected if isinstance(one, Unit)]
