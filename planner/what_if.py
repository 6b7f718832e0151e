"""A host that is not there: what `./plan.py --model` plans for, without an inventory."""

from __future__ import annotations

import re
from pathlib import Path

from planner.declared import Gpu, Host, InventoryError
from planner.fleet import read_hosts
from planner.gpus import find, near

NO_COMMIT = "0" * 40  # stands where none is named, until the hub is asked for one


def what_if(
    source: str | None,
    gpu: str | None,
    gpus: int,
    memory: float | None,
    context: int,
    concurrency: int,
) -> Host:
    """So many GPUs of a kind, or a CPU host of ``memory`` GiB, and one model.

    Raises InventoryError.
    """
    if source is None or (gpu is None) == (memory is None):
        raise InventoryError(
            ["give an INVENTORY, or --model with either --gpu NAME or --memory GIB"]
        )
    if memory is not None and not 0 < memory * 2**30 < float("inf"):  # nor is it no number
        raise InventoryError([f"--memory {memory}: expected a number of GiB above 0"])
    data: dict[str, object] = {"models": [_model(source, context, concurrency)]}
    if memory is not None:
        data |= {"flavour": "cpu", "memory_bytes": int(memory * 2**30)}
    else:
        data["gpus"] = (_card(str(gpu)),) * gpus
    (host,) = read_hosts({"what-if": data}, foreign=())
    return host


def _model(source: str, context: int, concurrency: int) -> dict[str, object]:
    path = Path(source).resolve()
    repo, _, revision = source.partition("@")
    if source and path.is_dir():
        where, name = {"path": str(path)}, path.name
    elif re.fullmatch(r"\w[\w.-]*/[\w.-]+", repo):
        where, name = {"repo": repo, "revision": revision or NO_COMMIT}, repo.rpartition("/")[2]
    else:
        what = source or repr(source)
        raise InventoryError([f"--model {what}: no such directory, and no REPO@REVISION of a hub"])
    model = {**where, "name": name, "context": context, "concurrency": concurrency}
    if not re.search("[a-z0-9]", name.lower()):  # of which a slug is made
        model["slug"] = "model"
    return model


def _card(name: str) -> Gpu:
    cards = find(name)
    if len(cards) == 1:
        return Gpu(**dict(cards[0].gpu))
    names = "`, `".join(card.name for card in cards)
    this = f"this names `{names}`" if cards else "none of planner/gpus.py has this name"
    if not cards and (close := near(name)):
        this += f" (near: `{'`, `'.join(close)}`)"
    raise InventoryError([f"--gpu {name!r}: expected one card, {this}"])
