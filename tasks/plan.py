"""What goes where on the current host, and everything it is to have therefore."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from threading import Lock as Mutex

from pyinfra import host, inventory, logger
from pyinfra.api.exceptions import DeployError

from hub.lock import Lock, LockError, ensure, read
from manifest import planned
from manifest.declaration import Declaration, Sources
from planner.bound import Bound
from planner.declared import Host, Model
from planner.fleet import related
from planner.traced import Processor
from tasks.declared import hosts, token
from templates import render

ROOT = Path(__file__).parents[1]


def plan(declared: Host, bound: Bound) -> Declaration:
    """Place the host's models and declare all that they need.

    A model that does not fit is not downloaded and not served; the others are, and the run's exit
    status is 1.
    """
    kin = related(declared, hosts(inventory).values())
    asked = planned.asked(declared, bound, kin)
    path = ROOT / declared.models_lock
    for other in kin:  # each from its own hub, with its own token
        if other.name != declared.name:
            try:
                _locked(asked[other.name], other, path, hashed=False)
            except DeployError as error:
                raise DeployError(f"{other.name}: {error}") from None
    lock = _locked(asked[declared.name], declared, path, hashed=True)
    declaration = planned.planned(declared, bound, lock, _sources(), kin)
    for words in declaration.warnings:
        host.log_styled(words, fg="yellow", log_func=logger.warning)
    return declaration


@cache
def _sources() -> Sources:
    return planned.sources(ROOT, render)


_ONE_AT_A_TIME = Mutex()  # hosts are prepared side by side, and they share the file


def _locked(
    asked: Sequence[tuple[Model, Processor]], declared: Host, path: Path, *, hashed: bool
) -> Lock:
    """Give all that the lock at ``path`` knows; what it does not of a host's models is fetched."""
    with _ONE_AT_A_TIME:
        try:
            known = read(path)
            if not hashed and all(known.traced(*each) is not None for each in asked):
                return known  # of another host, whose token need not be here
            return ensure(
                asked,
                path,
                endpoint=declared.hub.endpoint,
                token=token(declared.hub.token) or None,
                hashed=hashed,
                progress=lambda words: logger.info("    Learning what a model takes: %s", words),
            )
        except LockError as error:
            raise DeployError(f"models: nothing was touched: {error}") from None
