"""What a bound host is to have, from what its inventory declares and what is known of its models.

No network and no host: a deploy computes it from what preflight has just settled, a drift check
from what the stamp says of that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from manifest import checking, weights
from manifest.declaration import Declaration, Model, Sources, declare
from planner import Detected, Placement, Refusal, place
from planner import declared as inventory_data
from planner.bound import Bound
from planner.traced import Traced

FIRST_PORT = 7700  # of a group's own network: its guards meet there, its ranks have the next ones


class File(Protocol):
    """One file of a model, as ``models.lock`` describes it."""

    @property
    def path(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def sha256(self) -> str | None: ...
    @property
    def oid(self) -> str | None: ...


class Entry(Protocol):
    """One model of ``models.lock``."""

    @property
    def files(self) -> Sequence[File]: ...


class Lock(Protocol):
    """What a declaration asks of ``models.lock``."""

    def traced(
        self, model: inventory_data.Model, *, mlx_lm: str | None = None
    ) -> Traced | str | None: ...
    def entry(self, model: inventory_data.Model) -> Entry | None: ...


def planned(
    declared: inventory_data.Host, bound: Bound, lock: Lock, sources: Sources
) -> Declaration:
    """Place the host's models and declare all that they need.

    A model that does not fit is not declared; ``refusals`` says why, a sentence for each.
    """
    found = Detected(
        gpus=tuple(
            inventory_data.Gpu(
                name=gpu.name,
                memory_bytes=gpu.memory_bytes,
                compute_capability=gpu.compute_capability,
            )
            for gpu in bound.gpus
        ),
        memory_bytes=bound.memory_bytes,
    )
    plan = place([declared], lock, detected={declared.name: found})
    by_slug = {model.slug: model for model in declared.models}
    models = [
        _model(by_slug[one.model], one, rank, lock.entry(by_slug[one.model]), bound)
        for one in plan.placements
        for rank in range(one.ranks)
    ]
    declaration = declare(declared, bound, models, sources)
    return replace(declaration, refusals=tuple(_told(one) for one in plan.refusals))


def sources(checkout: Path, render: Callable[..., str]) -> Sources:
    """Read the texts of a checkout that hosts are made from; ``render`` renders its templates."""
    return Sources(
        locks={
            path.stem: path.read_text(encoding="utf-8") for path in checkout.glob("locks/*.txt")
        },
        guard={
            str(path.relative_to(checkout)): path.read_text(encoding="utf-8")
            for path in sorted(checkout.glob("guard/**/*.py"))
        },
        checker={
            name: (checkout / path).read_text(encoding="utf-8")
            for path, name in checking.PROGRAM.items()
        },
        render=render,
    )


def _told(refusal: Refusal) -> str:
    return "\n    ".join([refusal.sentence, *refusal.ways_out])


def _model(
    model: inventory_data.Model, placed: Placement, rank: int, entry: Entry | None, bound: Bound
) -> Model:
    blobs = tuple(
        weights.Blob(
            path=one.path,
            size=one.size,
            hash=f"sha256:{one.sha256}" if one.sha256 else f"git:{one.oid}",
        )
        for one in (entry.files if entry else ())
    )
    if model.repo is None:
        snapshot = weights.directory(str(model.path), blobs)
    else:
        snapshot = weights.snapshot(model.repo, str(model.revision), blobs)
    told = placed.settings
    names = (placed.instance, *(f"{placed.instance}.{above}" for above in range(1, placed.ranks)))
    gpu = placed.members[rank].gpu
    return Model(
        instance=names[rank],
        snapshot=snapshot,
        settings={
            "slug": model.slug,
            "served_name": model.name,
            "engine": placed.engine,
            "context_tokens": model.context,
            "concurrency": told.decode_concurrency,
            "prompt_concurrency": told.prompt_concurrency,
            "decode_concurrency": told.decode_concurrency,
            "prefill_step": told.prefill_step,
            "prompt_cache_entries": told.prompt_cache_entries,
            "memory_limit_bytes": told.memory_limit_bytes or None,
            "cache_limit_bytes": told.cache_limit_bytes or None,
            "planned_bytes": placed.need.mlx,
            "gpu_uuids": [] if gpu is None else [bound.gpus[gpu].uuid],
            **({"group": _group(rank, placed.ranks, gpu=gpu)} if placed.ranks > 1 else {}),
        },
        group=names if placed.ranks > 1 else (),
    )


def _group(rank: int, ranks: int, *, gpu: int | None) -> dict[str, object]:
    """What a guard is told of its group, whose ranks have a network to themselves."""
    meeting, *addresses = (f"127.0.0.1:{FIRST_PORT + index}" for index in range(ranks + 1))
    backend = "ring" if gpu is None else "nccl"
    return {"rank": rank, "backend": backend, "ranks": addresses, "meeting": meeting}
