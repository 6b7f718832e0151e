"""Records of sealed trees, made anew where nothing but files' times has moved."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from pyinfra.api import StringCommand

from facts.probe import TREE
from manifest.findings import UNREAD
from manifest.resources import Runtime, Weights
from operations.convergence import Command, Commands, Comparison, converge

SEAL = (Path(__file__).parent / "seal_program.py").read_text(encoding="utf-8")
Change = Callable[[Comparison], Iterator[Command]]


def converge_tree(noun: str, tree: Runtime | Weights, changes: Change) -> Commands:
    """Yield what ``changes`` makes of a tree that differs.

    Where a backup has linked to its files, or they were copied to another disk, each look would
    read them all again: then they are read once more, however long that takes, and recorded.
    """
    expected = replace(tree, retimed=False)
    yield from converge(noun, [expected], partial(renewing, noun=noun, tree=tree, changes=changes))


def renewing(
    compared: Comparison, noun: str, tree: Runtime | Weights, changes: Change
) -> Iterator[Command]:
    """Yield the renewal where times alone have moved, or may have; else what ``changes`` makes."""
    differs = compared.of(tree)
    changed = differs.pop("changed").found if "changed" in differs else ()
    if differs.keys() - {"retimed"} or not all(one.startswith(UNREAD) for one in changed):
        yield from changes(compared)
        return
    yield _renew(tree)
    if changed:
        # Now it is known: either all is as recorded, or it stays unread and is made anew.
        yield from converge(noun, [tree], changes)


def _renew(tree: Runtime | Weights) -> StringCommand:
    arguments = json.dumps([tree.path, tree.record, isinstance(tree, Weights)])
    call = f"renew(*json.loads({arguments!r}))"
    return StringCommand("python3 -I -", _stdin=f"{TREE}\n{SEAL}\n{call}\n")
