"""What a bound host is to have, from what its inventory declares and what is known of its models.

No network and no host: a deploy computes it from what preflight has just settled, a drift check
from what the stamp says of that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from manifest import checking, weights
from manifest.declaration import Declaration, Model, Sources, declare
from planner import declared as inventory_data
from planner.bound import Bound
from planner.fleet import related
from planner.placement import place
from planner.plan import Placement, Refusal
from planner.spaces import Detected, processors
from planner.traced import Processor, Traced

# The ranks of one host have a network to themselves: its guards meet there at the first port, its
# ranks have the next ones.
LOOPBACK, FIRST_PORT = "127.0.0.1", 7700


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
        self,
        model: inventory_data.Model,
        processor: Processor,
        *,
        mlx_lm: str | None = None,
    ) -> Traced | str | None: ...
    def entry(self, model: inventory_data.Model) -> Entry | None: ...


def detected(bound: Bound) -> Detected:
    """Give what a plan takes of what the host was found to be."""
    return Detected(
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


def asked(
    declared: inventory_data.Host, bound: Bound, kin: Iterable[inventory_data.Host]
) -> dict[str, list[tuple[inventory_data.Model, Processor]]]:
    """Give every model that the host's plan depends on, and what it has to be traced for, by host.

    ``kin`` are the hosts with which it may serve models together, itself among them.
    """
    hosts = [*kin]
    on = processors(hosts, {declared.name: detected(bound)})
    return {one.name: [(model, on[one.name]) for model in one.models] for one in hosts}


def planned(
    declared: inventory_data.Host,
    bound: Bound,
    lock: Lock,
    sources: Sources,
    fleet: Iterable[inventory_data.Host] = (),
) -> Declaration:
    """Place the host's models and declare all that they need.

    A model that does not fit is not declared; ``refusals`` says why, a sentence for each. ``fleet``
    are all hosts of the inventory, where the host's models may span several.
    """
    kin = related(declared, fleet or [declared])
    seen = {declared.name: detected(bound)}
    plan = place(kin, lock, detected=seen, advise=(declared.name,))
    by_slug = {model.slug: model for model in declared.models}
    fabric = {one.name: one.fabric or "" for one in kin}
    models = [
        _model(by_slug[one.model], one, rank, lock.entry(by_slug[one.model]), bound, fabric)
        for one in plan.on(declared.name)
        for rank, member in enumerate(one.members)
        if member.host == declared.name
    ]
    declaration = declare(declared, bound, models, sources)
    refusals = [_told(one) for one in plan.refusals if one.host == declared.name]
    refusals += [
        f"{name}: a GPU of it is none that planner/gpus.py knows, and models that span hosts are "
        f"planned from what is declared: declare its `memory_bytes` and `compute_capability` too"
        for name in plan.undecided
    ]
    own = f"{declared.name}: "
    warnings = [one.removeprefix(own) for one in plan.warnings if one.startswith(own)]
    peers = {member.host for one in plan.on(declared.name) for member in one.members}
    return replace(
        declaration,
        refusals=tuple(refusals),
        warnings=tuple(warnings),
        peers=tuple(sorted(peers - {declared.name})),
    )


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
    model: inventory_data.Model,
    placed: Placement,
    rank: int,
    entry: Entry | None,
    bound: Bound,
    fabric: Mapping[str, str],
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
    addresses = [LOOPBACK] * placed.ranks
    first_port = FIRST_PORT
    if spanned := len({member.host for member in placed.members}) > 1:
        addresses = [fabric[member.host] for member in placed.members]
        first_port = model.fabric_port
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
            **({"group": _group(rank, addresses, first_port, gpu)} if placed.ranks > 1 else {}),
        },
        group=names if placed.ranks > 1 else (),
        fabric=tuple(dict.fromkeys(addresses)) if spanned else (),
    )


def _group(
    rank: int, addresses: Sequence[str], first_port: int, gpu: int | None
) -> dict[str, object]:
    """What a guard is told of its group: where its guards meet, and where each rank listens."""
    return {
        "rank": rank,
        "backend": "ring" if gpu is None else "nccl",
        "meeting": f"{addresses[0]}:{first_port}",
        "ranks": [f"{each}:{first_port + 1 + at}" for at, each in enumerate(addresses)],
    }
