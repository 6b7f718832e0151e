"""Listening ports: those that are declared of our user, and no other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pyinfra.api import QuoteString, StringCommand, operation

from manifest.resources import Sockets
from operations.convergence import Command, Commands, Comparison, converge

CLOSE = (Path(__file__).parent / "close_program.py").read_text(encoding="utf-8")


@operation()
def closed(sockets: Sequence[Sockets]) -> Commands:
    """
    Ensure that our user's processes listen on no other TCP ports than those declared.

    + sockets: a user and its ports
    """
    yield from converge("sockets", sockets, _close)


def _close(compared: Comparison) -> Iterator[Command]:
    for one in compared.differing(Sockets):
        # A user that is not there yet has no processes, and one that lacks a port is no one's here.
        ports = compared.of(one).get("ports")
        strangers = sorted({*ports.found} - {*ports.expected}) if ports else []
        if strangers:
            words = [CLOSE, one.user, one.fabric or "", *map(str, strangers)]
            yield StringCommand("python3 -I -c", *map(QuoteString, words))
