#!/usr/bin/env python3
"""Does each host still match what is declared of it?

Exit status: 0 all do, 2 some do not, 1 it could not be told of some. Changes nothing anywhere.
"""

from __future__ import annotations

import sys

try:
    from gevent import monkey
except ModuleNotFoundError as error:
    sys.exit(
        f"./drift.py: no `{error.name}` here; it runs in the project's environment: "
        "`make environment`, then `. .venv/bin/activate`"
    )

monkey.patch_all()  # before anything that makes a socket: pyinfra's connections are gevent's

import logging
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path

import click
from gevent.pool import Pool
from pyinfra.api import Config, Host, Inventory, State
from pyinfra.api.exceptions import NoGroupError, PyinfraError
from pyinfra.context import ctx_config, ctx_inventory, ctx_state

from facts.live import Seen, SilentHostError, see
from hub.lock import Lock, LockError, read
from manifest import planned
from manifest.declaration import Declaration, Sources
from manifest.findings import WATCHED
from manifest.judgement import Judgement, judge
from manifest.manifest import Manifest
from manifest.stamp import Stamp
from manifest.tolerance import Tolerance
from planner.bound import Bound
from planner.declared import Host as Declared
from planner.declared import InventoryError
from planner.fleet import related
from reports.fleet import Fleet, HostReport
from tasks.declared import hosts as declared_hosts
from tasks.declared import read as read_inventory
from templates import render

ROOT = Path(__file__).parent
COULD_NOT_TELL = 1
SIDE_BY_SIDE = 32  # hosts; each takes a handshake's arithmetic, which one process does in turn
SECONDS = 60.0  # that a host has to answer in; a runtime of 20,000 files takes one


@click.command()
@click.argument("inventory", type=click.Path(path_type=Path))
@click.option("--limit", multiple=True, help="Only these hosts: a name, a pattern, a group.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.option("--html", type=click.Path(path_type=Path), help="Also write a page to look at.")
@click.option("--junit", type=click.Path(path_type=Path), help="Also write JUnit's XML.")
@click.option("--metrics", type=click.Path(path_type=Path), help="Also write Prometheus's text.")
@click.option("--svg", type=click.Path(path_type=Path), help="Also draw the table.")
@click.option("--ask", is_flag=True, help="Have every model say a word.")
@click.option("--deep", is_flag=True, help="Read every file again, weights too; takes minutes.")
@click.option("--seconds", default=SECONDS, show_default=True, help="A host's time to answer.")
def main(  # noqa: PLR0913, PLR0917 -- one for each option
    inventory: Path,
    limit: tuple[str, ...],
    as_json: bool,  # noqa: FBT001
    html: Path | None,
    junit: Path | None,
    metrics: Path | None,
    svg: Path | None,
    ask: bool,  # noqa: FBT001
    deep: bool,  # noqa: FBT001
    seconds: float,
) -> None:
    """Check that every host of INVENTORY is as declared."""
    # What a connection dies of is in the report; paramiko's tracebacks help nobody.
    logging.getLogger("paramiko").setLevel(logging.CRITICAL)
    must_be_writable({"html": html, "junit": junit, "metrics": metrics, "svg": svg})
    fleet = check(str(inventory), limit, seconds=seconds, ask=ask, deep=deep)
    from reports.writing import write  # noqa: PLC0415 -- while hosts answer, nobody needs it

    unwritten = write(
        fleet,
        as_json=as_json,
        html_path=html,
        junit_path=junit,
        metrics_path=metrics,
        svg_path=svg,
    )
    if unwritten:
        raise click.ClickException("\n".join(unwritten))
    sys.exit(fleet.exit_status)


def must_be_writable(paths: Mapping[str, Path | None]) -> None:
    """Refuse a report that could not be written, before any host is asked."""
    for option, path in paths.items():
        if path is not None and (path.is_dir() or not os.access(path.parent, os.W_OK)):
            raise click.ClickException(
                f"--{option}: {path}: expected a file in a directory that can be written to"
            )


def check(
    inventory: str,
    limit: Sequence[str] = (),
    *,
    seconds: float = SECONDS,
    ask: bool = False,
    deep: bool = False,
) -> Fleet:
    """Look at all hosts of an inventory side by side, and compare each with what is declared."""
    began = time.monotonic()
    fleet = Fleet(inventory=inventory, time=datetime.now(UTC).isoformat(timespec="seconds"))
    try:
        state, hosts = load(inventory, limit)
        declared = declared_hosts(state.inventory)
    except (PyinfraError, InventoryError) as error:
        return replace(fleet, trouble=str(error))
    checkout = Checkout()
    pool = Pool(SIDE_BY_SIDE)

    def one(host: Host) -> HostReport:
        try:
            seen = see(state, host, WATCHED, seconds=seconds, ask=ask, deep=deep)
            kin = related(declared[host.name], declared.values())
            return judged(declared[host.name], seen, checkout, kin, ask=ask)
        except SilentHostError as error:
            return unseen(host.name, str(error))
        except Exception as error:  # noqa: BLE001 - whatever one host brings about, others go on
            return unseen(host.name, f"{type(error).__name__}: {error}")

    reports = tuple(pool.imap(one, hosts))
    return replace(fleet, hosts=reports, seconds=time.monotonic() - began)


def load(inventory: str, limit: Sequence[str]) -> tuple[State, list[Host]]:
    """Load ``config.py`` and an inventory as pyinfra does.

    Raises ``PyinfraError``, ``InventoryError``.
    """
    from pyinfra_cli.util import exec_file  # noqa: PLC0415

    state, config = State(), Config()  # type: ignore[no-untyped-call]
    state.cwd = str(ROOT)
    ctx_state.set(state)  # type: ignore[no-untyped-call]
    ctx_config.set(config)  # type: ignore[no-untyped-call]
    exec_file(str(ROOT / "config.py"))
    whole = read_inventory(inventory)
    ctx_inventory.set(whole)  # type: ignore[no-untyped-call]
    hosts = list(limited(whole, limit))
    state.init(whole, config, initial_limit=hosts if limit else None)
    return state, hosts


def limited(whole: Inventory, limit: Sequence[str]) -> Iterator[Host]:
    """Give the hosts that a limit names, in the inventory's order."""
    wanted: set[Host] = set()
    for pattern in limit:
        try:
            named = set(whole.get_group(pattern))
        except NoGroupError:
            named = {host for host in whole if fnmatchcase(host.name, pattern)}
        if not named:
            raise PyinfraError(f"`--limit {pattern}` matches no host of the inventory")
        wanted |= named
    return (host for host in whole if not limit or host in wanted)


class Checkout:
    """What declarations are made from, read once for all hosts."""

    def __init__(self) -> None:
        self._sources: Sources | None = None
        self._locks: dict[str, Lock] = {}

    def declaration(
        self, host: Declared, stamp: Stamp, kin: Sequence[Declared] = ()
    ) -> Declaration:
        """Declare a host with what its stamp says it was bound to; raises ``ValueError``.

        ``kin`` are the hosts with which it may serve models together, itself among them.
        """
        if stamp.bound is None:
            raise ValueError("stamp: of an earlier version, which told less; deploy once")
        try:
            bound = Bound.from_json(stamp.bound)
        except (TypeError, KeyError) as error:
            raise ValueError(f"stamp: bound: {error}; deploy once") from None
        if self._sources is None:
            self._sources = planned.sources(ROOT, render)
        if host.models_lock not in self._locks:
            self._locks[host.models_lock] = read(ROOT / host.models_lock)
        lock = self._locks[host.models_lock]
        by_host = planned.asked(host, bound, kin or (host,))
        asked = [one for its in by_host.values() for one in its]
        unknown = sorted({model.source for model, on in asked if lock.traced(model, on) is None})
        if unknown:
            # A plan takes cards that are not declared for newer ones; a deploy sees them.
            way_out = "run ./plan.py, or deploy where `gpus` are not declared"
            raise LockError(f"models.lock: has no trace of {', '.join(unknown)}; {way_out}")
        sources = sorted({model.source for model, _ in by_host[host.name]})
        unhashed = [source for source in sources if not lock.models[source].hashed]
        if unhashed:
            raise LockError(f"models.lock: has no hashes of {', '.join(unhashed)}; deploy once")
        declaration = planned.planned(host, bound, lock, self._sources, kin)
        if declaration.refusals:
            raise ValueError("; ".join(declaration.refusals))
        return declaration


def judged(
    declared: Declared, seen: Seen, checkout: Checkout, kin: Sequence[Declared] = (), *, ask: bool
) -> HostReport:
    """Compare what a host answered with its stamp and with what is declared of it now."""
    answer = seen.answer
    texts: dict[str, tuple[str, str]] = {}

    def declare(stamp: Stamp) -> Manifest:
        declaration = checkout.declaration(declared, stamp, kin)
        contents = declaration.contents
        texts.update(
            {
                path: (contents[path], text)
                for path, text in answer.texts.items()
                if path in contents
            }
        )
        return declaration.manifest

    judgement = judge(
        answer.stamp,
        answer.manifest,
        declare=declare,
        deploying=answer.deploying,
        problems=answer.problems,
        tolerances=[Tolerance(**one.model_dump()) for one in declared.tolerated],
        today=datetime.now(UTC).date(),
        ask=ask,
    )
    return HostReport(
        name=declared.name,
        judgement=judgement,
        connect_s=seen.connect_s,
        ask_s=seen.ask_s,
        texts=texts,
    )


def unseen(host: str, why: str) -> HostReport:
    """Report a host of which nothing can be told."""
    return HostReport(name=host, judgement=Judgement(troubles=(why,)))


def run() -> None:
    """Run as a program: a mistake in its options is one line and exit status 1; 2 is drift."""
    try:
        main.main(standalone_mode=False)
    except click.ClickException as error:
        print(error.format_message(), file=sys.stderr)
        sys.exit(COULD_NOT_TELL)
    except click.Abort:  # Ctrl-C
        sys.exit(128 + signal.SIGINT)


if __name__ == "__main__":
    run()
