"""What the inventory declares, of all hosts at once."""

from __future__ import annotations

import os
from pathlib import Path

from pyinfra import host, inventory
from pyinfra.api import Inventory, State
from pyinfra.api.arguments import all_global_arguments
from pyinfra.api.connectors import get_all_connectors
from pyinfra.api.exceptions import DeployError, PyinfraError

from planner.declared import Host, InventoryError, Secret
from planner.fleet import read_hosts

ROOT = Path(__file__).parents[1]


def declared() -> Host:
    """Give the current host's declaration."""
    return hosts(inventory)[host.name]


def check(state: State) -> None:
    """Stop a run that could do nothing, or the wrong thing, before any host is connected to."""
    if not len(state.inventory):
        raise InventoryMistakeError(
            "the inventory has no hosts: expected the path of a file that is there, such as "
            "`inventories/gpu.py`"
        )
    if state.limit_hosts is not None and not state.limit_hosts:
        raise InventoryMistakeError("`--limit` and `--exclude` leave no host of the inventory")
    try:
        hosts(state.inventory)
    except InventoryError as error:
        raise InventoryMistakeError(f"the inventory has mistakes:\n{error}") from None


class InventoryMistakeError(PyinfraError):
    """Stops the run with its message; nothing was touched."""


def read(path: str | Path) -> Inventory:
    """Read an inventory file with its group data, as pyinfra does; raises ``InventoryError``.

    The caller has set the contexts of state and configuration, which an inventory may ask for.
    """
    # For programs of their own alone: under `pyinfra` both are loaded, elsewhere they take long.
    from pyinfra_cli.exceptions import UnexpectedExternalError  # noqa: PLC0415
    from pyinfra_cli.inventory import make_inventory_from_files  # noqa: PLC0415

    if not Path(path).is_file():
        there = "expected a file such as `inventories/gpu.py`"
        raise InventoryError([f"{path}: no such inventory; {there}"])
    try:
        whole: Inventory = make_inventory_from_files(str(path), cwd=str(ROOT))
    except UnexpectedExternalError as wrapped:
        error: BaseException = wrapped.exception
    except (Exception, SystemExit) as raised:  # noqa: BLE001 -- a program may raise anything
        error = raised
    else:
        return whole
    raise InventoryError([f"{path}: {type(error).__name__}: {error}"])


def hosts(whole: Inventory) -> dict[str, Host]:
    """Give every host of an inventory; raises ``InventoryError`` with all mistakes of all hosts."""
    data = {one.name: {**one.data.dict()} for one in whole}  # type: ignore[no-untyped-call]
    return {one.name: one for one in read_hosts(data, foreign=foreign())}


def foreign() -> set[str]:
    """Name the keys in a host's data that are pyinfra's own: connections, global arguments."""
    connectors = get_all_connectors().values()  # type: ignore[no-untyped-call]
    keys = {key for one in connectors for key in one.data_cls.__annotations__}
    return keys | {name for name, _ in all_global_arguments()}


def token(source: Secret | None) -> str:
    """Read a hub's on the controller, ``""`` where none is declared; stops the run where gone."""
    if source is None:
        return ""
    if source.env is not None:
        value = os.environ.get(source.env)
        if value is None:
            raise DeployError(f"hub.token: the environment has no `{source.env}`; export it")
        return value.strip()
    try:
        return Path(str(source.file)).expanduser().read_text(encoding="utf-8").strip()
    except OSError as error:
        raise DeployError(f"hub.token: {source.file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DeployError(f"hub.token: {source.file}: not UTF-8; expected a token") from None
