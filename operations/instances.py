"""Served models: running from what is declared, and ready."""

from __future__ import annotations

from collections.abc import Iterator

from pyinfra.api import operation

from manifest.resources import Instance, Unit
from operations.convergence import Command, Commands, Comparison, converge
from operations.units import mend, start


@operation()
def ready(unit: Unit, instance: Instance) -> Commands:
    """
    Ensure that an instance runs from the declared inputs and can generate.

    + unit: its systemd unit
    + instance: its inputs' digest and state

    Started means that a token came: the unit tells systemd so, and this waits for it. It is
    restarted when what it was started from differs from what is declared, whichever run changed
    that, and for no other reason.
    """
    yield from converge("instance", [unit, instance], _start)


def _start(compared: Comparison) -> Iterator[Command]:
    if compared.differing(Unit):
        yield from mend(compared)
    unit, instance = compared.expected
    stale = {"", "inputs", "deleted"} & compared.of(instance).keys()
    if stale or compared.of(instance) or "active" in compared.of(unit):
        # One that is on its way up with the right inputs is waited for, not begun again.
        yield start("restart" if stale else "start", unit.id)
