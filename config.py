"""pyinfra's own settings for this project, made before any host is connected to."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pyinfra import config
from pyinfra.api import Inventory, State
from pyinfra_cli import cli
from pyinfra_cli.exceptions import CliError

from facts import connection
from tasks.declared import check

config.REQUIRE_PYINFRA_VERSION = "~=3.10.0"
config.SUDO = True
config.CONNECT_TIMEOUT = 10

connection.quicken()

# The last moment before pyinfra connects, and the first at which it knows its hosts.
_init = State.init


def _checked_init(self: State, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
    _init(self, *args, **kwargs)
    check(self)
    # A host refused or lost drops out and the others go on, in every kind of run alike; pyinfra
    # would stop and ask where it may ask. The exit status tells.
    self.should_raise_failed_hosts = None
    self.config.FAIL_PERCENT = None


State.init = _checked_init  # type: ignore[method-assign]


_make_inventory = cli.make_inventory


def _checked_inventory(inventory: str, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
    """Read an inventory; a path that is not there is no host's name, nor a module to import."""
    path = Path(inventory)
    if path.is_dir() or (path.suffix == ".py" and not path.is_file()):
        raise CliError(f"the inventory has no hosts: there is no file `{inventory}`")
    return _make_inventory(inventory, *args, **kwargs)


cli.make_inventory = _checked_inventory


_matches = cli._get_inventory_pattern_matches  # noqa: SLF001 - pyinfra has no other place for it


def _checked_matches(inventory: Inventory, patterns: Iterable[str], option: str) -> Any:  # noqa: ANN401
    """Choose hosts; a word that matches none is a slip, whatever the other words match."""
    for pattern in patterns:
        if not _matches(inventory, [pattern], option):
            names = ", ".join(sorted(host.name for host in inventory)) or "none"
            raise CliError(f"`{option} {pattern}` matches no host of the inventory: it has {names}")
    return _matches(inventory, patterns, option)


cli._get_inventory_pattern_matches = _checked_matches  # noqa: SLF001


_confirm = cli._do_confirm  # noqa: SLF001 - pyinfra has no other place for it


def _confirm_or_say(message: str) -> bool:
    """Ask whether to go on; where nobody can answer, say what to do in place of a traceback."""
    try:
        return bool(_confirm(message))
    except EOFError:
        print(file=sys.stderr)  # ends the question's line
        raise CliError(
            "nothing was changed: there is nobody to ask; run with `-y` to change what differs, "
            "or with `--dry` to see it only"
        ) from None


cli._do_confirm = _confirm_or_say  # noqa: SLF001
