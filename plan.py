#!/usr/bin/env python3
"""What goes on which GPU, and why not elsewhere; touches nothing.

Exit status: 0 everything fits, 2 something does not, 1 it could not be told.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from io import TextIOWrapper
from pathlib import Path

try:
    import click
    from click.core import ParameterSource
    from rich.console import Console
    from rich.text import Text

    from hub.lock import Entry, Lock, LockError, ensure, wrong_endpoint
    from planner.declared import Host, InventoryError, Model, Secret
    from planner.placement import place
    from planner.plan import Plan
    from planner.report import report
    from planner.spaces import processors
    from planner.traced import Processor
    from planner.what_if import what_if
    from planner.why import why
except ModuleNotFoundError as error:
    sys.exit(
        f"./plan.py: no `{error.name}` here; it runs in the project's environment: "
        "`make environment`, then `. .venv/bin/activate`"
    )
except KeyboardInterrupt:
    sys.exit(128 + signal.SIGINT)

ROOT = Path(__file__).parent
FITS, COULD_NOT_TELL, DOES_NOT_FIT = 0, 1, 2
OF_A_MODEL = ("gpu", "gpus", "memory", "context", "concurrency")  # an inventory has its own


class Fault(Exception):  # noqa: N818 -- the message is all there is to it
    """The plan could not be made; one line for each reason."""


@click.command()
@click.argument("inventory", required=False, type=click.Path(path_type=Path))
@click.option("--model", help="Plan for REPO@REVISION or a directory, without an inventory.")
@click.option("--gpu", help="With --model: the GPU's name, or the part of it that tells it apart.")
@click.option(
    "--gpus",
    type=click.IntRange(1, 1024),
    default=1,
    show_default=True,
    help="With --model: how many of them.",
)
@click.option("--memory", type=float, help="With --model: a CPU host of this many GiB instead.")
@click.option("--context", default=8192, show_default=True, help="With --model: tokens.")
@click.option("--concurrency", default=4, show_default=True, help="With --model: requests at once.")
@click.option("--lock", "lock_path", type=click.Path(path_type=Path), help="The `models.lock`.")
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
        judge(click.get_current_context(), svg)
        if inventory is not None:
            hosts = read_inventory(inventory)
        else:
            hosts = (what_if(model, gpu, gpus, memory, context, concurrency),)
            lock_path = lock_path or cache()
        if explain is not None:
            must_be_declared(explain, hosts)
        if model is not None:
            hosts = tuple(at_a_commit(host, model) for host in hosts)
        lock = locked(hosts, lock_path, errors)
        with errors.status("placing models, and trying what would make others fit"):
            plan = place(hosts, lock)
        show(plan, hosts, lock, explain=explain, as_json=as_json, svg=svg)
    except (Fault, InventoryError, LockError) as fault:
        for line in str(fault).splitlines():
            errors.print(line, markup=False, soft_wrap=True)
        sys.exit(COULD_NOT_TELL)
    sys.exit(DOES_NOT_FIT if plan.refusals else COULD_NOT_TELL if plan.undecided else FITS)


def judge(context: click.Context, svg: Path | None) -> None:
    """Refuse what nobody would read, and what could not be written. Raises Fault."""
    given = {
        name
        for name in context.params
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
    if {"inventory", "model"} <= given:
        raise Fault("give either an INVENTORY or --model, not both")
    if "inventory" in given and (extra := [name for name in OF_A_MODEL if name in given]):
        raise Fault(f"--{extra[0]} goes with --model; an INVENTORY declares its own")
    if {"gpus", "memory"} <= given:
        raise Fault("--gpus goes with --gpu, not with --memory")
    if {"explain", "as_json"} <= given:
        raise Fault("give either --why or --json, not both")
    if svg is not None and (svg.is_dir() or not os.access(svg.parent, os.W_OK)):
        raise Fault(f"--svg: {svg}: expected a file in a directory that can be written to")
    if mistake := wrong_endpoint():
        raise Fault(mistake)


def must_be_declared(name: str, hosts: Sequence[Host]) -> None:
    """Refuse a model that no host has, before anything is traced. Raises Fault."""
    models = {model.name: model.slug for host in hosts for model in host.models}
    if name not in {*models, *models.values()}:
        there = ", ".join(f"`{one}`" for one in models) or "none"
        raise Fault(f"--why {name}: no host declares such a model; declared: {there}")


def cache() -> Path:
    """Where what-ifs keep their traces: they touch nothing of the project's. Raises Fault."""
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    place = named if named.is_absolute() else Path("~/.cache").expanduser()
    try:
        (place / "mlx-hosts").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Fault(f"{place}: {error.strerror}; give a --lock") from None
    return place / "mlx-hosts" / "models.lock"


def show(
    plan: Plan,
    hosts: Sequence[Host],
    lock: Lock,
    *,
    explain: str | None,
    as_json: bool,
    svg: Path | None,
) -> None:
    """Print the plan as asked for. Raises Fault."""
    width = None if sys.stdout.isatty() else 160
    console = Console(highlight=False, width=width)
    with printed():
        if as_json:
            print(json.dumps(plan.to_json(), indent=1))
        elif explain is not None:
            console.print(why(explain, hosts, lock, plan), markup=False, soft_wrap=True)
        else:
            console.print(report(plan), soft_wrap=False)
    if svg is not None:
        with Path(os.devnull).open("w") as nowhere:
            drawn = Console(record=True, width=160, file=nowhere, highlight=False)
            drawn.print(report(plan))
            try:
                drawn.save_svg(str(svg), title="./plan.py", unique_id="plan")
            except OSError as error:
                raise Fault(f"--svg: {svg}: {error.strerror}") from None


@contextmanager
def printed() -> Iterator[None]:
    """Have all on stdout that is printed here, or end: in silence where nobody reads on.

    Raises Fault.
    """
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        # What is left would be tried once more when the program ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            sys.exit(COULD_NOT_TELL)
        raise Fault(f"stdout: {error.strerror}") from None


def read_inventory(path: Path) -> tuple[Host, ...]:
    """The hosts of a pyinfra inventory file, with its group data. Raises Fault, InventoryError."""
    # pyinfra takes half a second to import; a what-if has no need of it.
    from pyinfra.api import Config, State  # noqa: PLC0415
    from pyinfra.context import ctx_config, ctx_state  # noqa: PLC0415

    from tasks import declared  # noqa: PLC0415

    ctx_state.set(State())  # type: ignore[no-untyped-call]
    ctx_config.set(Config())  # type: ignore[no-untyped-call]
    hosts = declared.hosts(declared.read(path))
    if not hosts:
        raise Fault(f"{path}: has no hosts")
    return tuple(hosts.values())


def at_a_commit(host: Host, source: str) -> Host:
    """The what-if ``host``, at the commit that its repository has now where ``source`` names none.

    The hub is asked when all else has been judged. Raises Fault.
    """
    (model,) = host.models
    if model.repo is None or source.partition("@")[2]:
        return host
    found = model.model_copy(update={"revision": _head(model.repo)})
    return host.model_copy(update={"models": (found,)})


def _head(repo: str) -> str:
    from hub.client import HubError, head  # noqa: PLC0415 -- the network is only for this

    try:
        return head(repo, token=os.environ.get("HF_TOKEN"))
    except HubError as error:
        raise Fault(str(error)) from None


def locked(hosts: Sequence[Host], path: Path | None, errors: Console) -> Lock:
    """What is known of all hosts' models, fetched where it is not. Raises LockError, Fault."""
    mistakes: list[str] = []
    on = processors(hosts, {})
    groups: dict[tuple[Path, str, str | None], list[tuple[Model, Processor]]] = {}
    for host in hosts:
        where = path or ROOT / host.models_lock
        token = _token(host.hub.token) if host.hub.token else os.environ.get("HF_TOKEN")
        endpoint = host.hub.endpoint
        if "endpoint" not in host.hub.model_fields_set:
            endpoint = os.environ.get("HF_ENDPOINT", endpoint)
        groups.setdefault((where, endpoint, token), []).extend(
            (model, on[host.name]) for model in host.models
        )
    known: dict[str, Entry] = {}
    for (where, endpoint, token), wanted in groups.items():
        try:
            with errors.status("reading models.lock") as status:
                lock = ensure(
                    wanted,
                    where,
                    endpoint=endpoint,
                    token=token,
                    progress=lambda words: status.update(Text(words)),
                )
        except LockError as error:
            mistakes.append(str(error))
        else:
            for source, entry in lock.models.items():
                others = known[source].traces if source in known else {}  # of another lock
                known[source] = replace(entry, traces={**others, **entry.traces})
    if mistakes:
        raise LockError("\n".join(mistakes))
    return Lock(models=known)


def _token(source: Secret) -> str:
    from pyinfra.api.exceptions import PyinfraError  # noqa: PLC0415 -- as in ``read_inventory``

    from tasks import declared  # noqa: PLC0415

    try:
        return declared.token(source)
    except PyinfraError as error:
        raise Fault(str(error)) from None


def run() -> None:
    """Run as a program: one line for a mistake in its options; SIGTERM ends what it started."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal need not have the bars
    try:
        main.main(standalone_mode=False)
    except click.ClickException as error:
        print(error.format_message(), file=sys.stderr)
        sys.exit(COULD_NOT_TELL)
    except click.Abort:  # Ctrl-C
        sys.exit(128 + signal.SIGINT)


if __name__ == "__main__":
    run()
