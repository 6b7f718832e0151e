#!/usr/bin/env python3
"""What goes on which GPU, and why not elsewhere; touches nothing.

Exit status: 0 everything fits, 2 something does not, 1 it could not be told.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console

from hub.lock import Entry, Lock, LockError, ensure
from planner.declared import Gpu, Host, InventoryError, Model, Secret
from planner.fleet import read_hosts
from planner.gpus import find
from planner.placement import place
from planner.plan import Plan
from planner.report import report
from planner.why import why

ROOT = Path(__file__).parent
FITS, COULD_NOT_TELL, DOES_NOT_FIT = 0, 1, 2


class Fault(Exception):  # noqa: N818 -- the message is all there is to it
    """The plan could not be made; one line for each reason."""


@click.command()
@click.argument("inventory", required=False, type=click.Path(path_type=Path))
@click.option("--model", help="Plan for REPO@REVISION or a directory, without an inventory.")
@click.option("--gpu", help="With --model: the GPU's name, or the part of it that tells it apart.")
@click.option("--gpus", default=1, show_default=True, help="With --model: how many of them.")
@click.option("--memory", type=float, help="With --model: a CPU host of this many GiB instead.")
@click.option("--context", default=8192, show_default=True, help="With --model: tokens.")
@click.option("--concurrency", default=4, show_default=True, help="With --model: requests at once.")
@click.option("--lock", "lock_path", type=click.Path(path_type=Path), help="The models.lock.")
@click.option("--why", "explain", metavar="MODEL", help="Every rule that was checked for a model.")
@click.option(
    "--json", "as_json", is_flag=True, help="One JSON object on stdout (docs/planner.md)."
)
@click.option("--svg", type=click.Path(path_type=Path), help="Also draw the plan into this file.")
def main(  # noqa: PLR0913, PLR0917 -- one for each option
    inventory: Path | None,
    model: str | None,
    gpu: str | None,
    gpus: int,
    memory: float | None,
    context: int,
    concurrency: int,
    lock_path: Path | None,
    explain: str | None,
    as_json: bool,  # noqa: FBT001
    svg: Path | None,
) -> None:
    """Say what goes on which GPU of INVENTORY's hosts, and why not elsewhere."""
    errors = Console(stderr=True, highlight=False)
    try:
        if inventory is not None and model is None:
            hosts = read_inventory(inventory)
        else:
            hosts = (what_if(model, gpu, gpus, memory, context, concurrency),)
        lock = locked(hosts, lock_path, errors)
    except (Fault, InventoryError, LockError) as fault:
        for line in str(fault).splitlines():
            errors.print(line, markup=False, soft_wrap=True)
        sys.exit(COULD_NOT_TELL)
    plan = place(hosts, lock)
    show(plan, hosts, lock, explain=explain, as_json=as_json, svg=svg)
    sys.exit(DOES_NOT_FIT if plan.refusals else COULD_NOT_TELL if plan.undecided else FITS)


def show(
    plan: Plan,
    hosts: Sequence[Host],
    lock: Lock,
    *,
    explain: str | None,
    as_json: bool,
    svg: Path | None,
) -> None:
    """Print the plan as asked for."""
    width = None if sys.stdout.isatty() else 160
    console = Console(highlight=False, width=width)
    if as_json:
        print(json.dumps(plan.to_json(), indent=1))
    elif explain is not None:
        console.print(why(explain, hosts, lock, plan), markup=False, soft_wrap=True)
    else:
        console.print(report(plan), soft_wrap=False)
    if svg is not None:
        with Path(os.devnull).open("w") as nowhere:
            drawn = Console(record=True, width=150, file=nowhere, highlight=False)
            drawn.print(report(plan))
            drawn.save_svg(str(svg), title="./plan.py", unique_id="plan")


def read_inventory(path: Path) -> tuple[Host, ...]:
    """The hosts of a pyinfra inventory file, with its group data. Raises Fault, InventoryError."""
    if not path.is_file():
        raise Fault(f"{path}: no such inventory; expected a file such as `inventories/gpu.py`")
    # pyinfra takes half a second to import; a what-if has no need of it.
    from pyinfra.api import Config, State  # noqa: PLC0415
    from pyinfra.api.arguments import all_global_arguments  # noqa: PLC0415
    from pyinfra.api.connectors import get_all_connectors  # noqa: PLC0415
    from pyinfra.context import ctx_config, ctx_state  # noqa: PLC0415
    from pyinfra_cli.exceptions import UnexpectedExternalError  # noqa: PLC0415
    from pyinfra_cli.inventory import make_inventory_from_files  # noqa: PLC0415

    ctx_state.set(State())  # type: ignore[no-untyped-call]
    ctx_config.set(Config())  # type: ignore[no-untyped-call]
    try:
        whole = make_inventory_from_files(str(path), cwd=str(ROOT))
    except UnexpectedExternalError as wrapped:
        error = wrapped.exception
        raise Fault(f"{path}: {type(error).__name__}: {error}") from None
    except Exception as error:  # noqa: BLE001 -- an inventory is a program, it may raise anything
        raise Fault(f"{path}: {type(error).__name__}: {error}") from None
    data = {host.name: dict(host.data.dict()) for host in whole}
    if not data:
        raise Fault(f"{path}: has no hosts")
    foreign = {name for name, _ in all_global_arguments()}
    for connector in get_all_connectors().values():  # type: ignore[no-untyped-call]
        foreign |= set(connector.data_cls.__annotations__)
    return read_hosts(data, foreign=foreign)


def what_if(
    source: str | None,
    gpu: str | None,
    gpus: int,
    memory: float | None,
    context: int,
    concurrency: int,
) -> Host:
    """A host that is not there: so many GPUs of a kind, and one model. Raises Fault."""
    if source is None or (gpu is None) == (memory is None):
        raise Fault("give an INVENTORY, or --model with either --gpu NAME or --memory GIB")
    repo, _, revision = source.partition("@")
    where = {"path": str(Path(source).resolve())}
    if not Path(source).is_dir():
        where = {"repo": repo, "revision": revision or _head(repo)}
    model = {**where, "name": Path(repo).name, "context": context, "concurrency": concurrency}
    data: dict[str, object] = {"models": [model]}
    if memory is not None:
        data |= {"flavour": "cpu", "memory_bytes": int(memory * 2**30)}
    else:
        cards = find(str(gpu))
        if len(cards) != 1:
            names = "`, `".join(card.name for card in cards) or "none of planner/gpus.py"
            raise Fault(f"--gpu {gpu!r}: expected one card, this names `{names}`")
        data["gpus"] = tuple(Gpu(**dict(cards[0].gpu)) for _ in range(gpus))
    (host,) = read_hosts({"what-if": data}, foreign=())
    return host


def _head(repo: str) -> str:
    from hub.client import HubError, head  # noqa: PLC0415 -- the network is only for this

    try:
        return head(repo, token=os.environ.get("HF_TOKEN"))
    except HubError as error:
        raise Fault(str(error)) from None


def locked(hosts: Sequence[Host], path: Path | None, errors: Console) -> Lock:
    """What is known of all hosts' models, fetched where it is not. Raises LockError, Fault."""
    mistakes: list[str] = []
    groups: dict[tuple[Path, str, str | None], list[Model]] = {}
    for host in hosts:
        where = path or ROOT / host.models_lock
        token = _secret(host.hub.token) or os.environ.get("HF_TOKEN")
        endpoint = host.hub.endpoint
        if "endpoint" not in host.hub.model_fields_set:
            endpoint = os.environ.get("HF_ENDPOINT", endpoint)
        groups.setdefault((where, endpoint, token), []).extend(host.models)
    known: dict[str, Entry] = {}
    for (where, endpoint, token), wanted in groups.items():
        try:
            with errors.status("reading models.lock") as status:
                lock = ensure(
                    wanted,
                    where,
                    endpoint=endpoint,
                    token=token,
                    progress=status.update,
                )
        except LockError as error:
            mistakes.append(str(error))
        else:
            known |= lock.models
    if mistakes:
        raise LockError("\n".join(mistakes))
    return Lock(models=known)


def _secret(source: Secret | None) -> str | None:
    if source is None:
        return None
    if source.env is not None:
        return os.environ.get(source.env)
    try:
        return Path(str(source.file)).expanduser().read_text(encoding="utf-8").strip()
    except OSError as error:
        raise Fault(f"hub.token: {source.file}: {error.strerror}") from None


if __name__ == "__main__":
    main()
