"""How every operation here works: look at the host, compare, change what differs."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pyinfra import host, logger
from pyinfra.api import FunctionCommand, Host, QuoteString, State, StringCommand

from facts.probe import look
from manifest.difference import Difference, diff
from manifest.manifest import Manifest
from manifest.resources import Resource

Command = StringCommand | FunctionCommand
Commands = Generator[Command, None, None]  # what pyinfra wants of an operation
R = TypeVar("R", bound=Resource)


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was expected, what is there, and what of it differs."""

    expected: Sequence[Resource]
    actual: Manifest
    differences: tuple[Difference, ...]

    def differing(self, *kinds: type[R]) -> list[R]:
        """Give the expected resources of these kinds that are missing or differ, in order."""
        addresses = {difference.address for difference in self.differences}
        return [one for one in self.expected if one.address in addresses and isinstance(one, kinds)]

    def of(self, resource: Resource) -> dict[str, Difference]:
        """Give one resource's differences by attribute; ``""`` is the resource as a whole."""
        return {
            difference.attribute or "": difference
            for difference in self.differences
            if difference.address == resource.address
        }


def converge(
    noun: str,
    expected: Sequence[Resource],
    changes: Callable[[Comparison], Iterator[Command]],
    *,
    deep: bool = False,
) -> Commands:
    """Yield the commands that ``changes`` makes of what differs on the current host."""
    answer = look(expected, deep=deep)
    if answer is None or answer.problems:
        # pyinfra goes on after a fact that failed; what is not known must not decide anything.
        why = "; ".join(answer.problems) if answer else "no answer"
        yield FunctionCommand(refuse, (f"{noun}: cannot look at the host: {why}",), {})
        return
    differences = diff(expected, answer.manifest)
    if not differences:
        host.noop(f"{noun}: as declared")
        return
    for difference in differences:
        logger.debug("%s%s", host.print_prefix, difference)
    yield from changes(Comparison(expected, answer.manifest, differences))


def refuse(state: State, host: Host, message: str) -> bool:
    """Fail this host alone, with a message; to be run as a ``FunctionCommand``."""
    del state
    host.log_styled(message, fg="red", log_func=logger.error)
    return False


def script(text: str, *arguments: str, stdin: str = "") -> StringCommand:
    """Run a shell script with arguments; it gets what is long or secret on its standard input."""
    command = ["sh", "-c", QuoteString(text), "mlx-hosts", *map(QuoteString, arguments)]
    return StringCommand(*command, _stdin=stdin) if stdin else StringCommand(*command)
