"""Every rule that was checked for a model, with its numbers, as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from planner.amounts import gib
from planner.declared import Host, Model
from planner.demand import work
from planner.fitting import Devices, Lock, attention, candidate
from planner.fleet import span_of
from planner.plan import Plan, Space
from planner.traced import SIZES, Rank, Traced


def why(
    name: str, hosts: Sequence[Host], lock: Lock, plan: Plan, *, mlx_lm: str | None = None
) -> str:
    """The rules for the model that is called ``name`` or has that slug, on every host."""
    lines: list[str] = []
    for host in hosts:
        for model in host.models:
            if name in {model.name, model.slug}:
                span = span_of(host, model, hosts)
                lines += _on(host, model, lock, plan, mlx_lm, [one.name for one in span])
    return "\n".join(lines) or f"no host declares a model `{name}`"


def _on(
    host: Host, model: Model, lock: Lock, plan: Plan, mlx_lm: str | None, span: Sequence[str]
) -> Iterator[str]:
    yield f"{host.name}: {model.slug} ({model.source})"
    yield f"  asked for: {model.context} tokens of context, {model.concurrency} requests at once"
    traced = lock.traced(model, mlx_lm=mlx_lm)
    if not isinstance(traced, Traced):
        yield f"  not traced: {traced or 'not in models.lock'}"
        return
    yield f"  traced: {traced.model_type}, {traced.layers} layers, by mlx-lm {traced.mlx_lm}"
    if not traced.batchable:
        yield f"  served one at a time: {traced.alone}"
    spaces = [space for space in plan.spaces if space.host == host.name]
    for space in spaces:
        where = "memory" if space.gpu is None else f"GPU {space.gpu}, {space.name}"
        device = Devices().on(host).of(space)
        yield (
            f"  {where}: {gib(space.total)}, of which {device.usable_share:.0%} less what others "
            f"hold: {gib(space.usable)}"
        )
    if not spaces:
        yield "  its GPUs or memory are neither declared nor detected yet"
        return
    if len(span) > 1:
        yield f"  may go over {len(span)} hosts: {', '.join(span)}"
        spaces = [space for space in plan.spaces if space.host in span]
    yield from _rules(model, traced, spaces, Devices().on(host))
    yield from _outcome(host, model, plan)


def _rules(
    model: Model, traced: Traced, spaces: Sequence[Space], devices: Devices
) -> Iterator[str]:
    space = max(spaces, key=lambda one: one.usable)
    yield f"  attention: {attention(traced, space)[1]}"
    cpu = space.gpu is None
    sizes: tuple[int, ...] = SIZES
    if cpu:
        sizes = tuple(size for size in SIZES if size <= len(spaces))
    if model.ranks:
        sizes = (model.ranks,)
    for size in sizes:
        rank = traced.rank(size)
        many = "one GPU" if size == 1 else f"{size} GPUs"
        if cpu:
            many = "this host" if size == 1 else f"{size} processes"
        elif size > len(spaces):
            yield f"  {many}: there are {len(spaces)}"
            return
        if not isinstance(rank, Rank):
            yield f"  {many}: {rank}"
            continue
        yield f"  {many}: weights {gib(rank.weights)} on each; of caches for a sequence:"
        for kind in rank.kinds:
            yield f"    {_kind(kind.kind, kind.count, kind.token_bytes, kind.fixed_bytes)}" + (
                f", the last {kind.window} tokens" if kind.window else ""
            )
        device = devices.of(space)
        able = candidate(model, traced, size)
        assert able is not None, "its rank is there"  # noqa: S101
        for settings in able.rungs():
            need = able.need(settings, space, devices)
            fits = "fits" if need.total <= space.usable else "does not fit"
            told = (
                f"{settings.prompt_concurrency} prompts x {settings.prefill_step} tokens, "
                f"{settings.prompt_cache_entries} kept"
            )
            fused = attention(traced, space)[0]
            parts = work(traced, able.rank, settings, model.context, device, fused=fused)
            worst = "loading" if need.work == traced.loading else max(parts, key=parts.__getitem__)
            yield (
                f"    {told}: weights {gib(need.weights)} + KV {gib(need.kv)} + kept "
                f"{gib(need.prompt_cache)} + work {gib(need.work)} ({worst}) + process "
                f"{gib(need.process)} = {gib(need.total)} of {gib(space.usable)}: {fits}"
            )
        for words in device.assumed.values():
            yield f"    assumed: {words}"


def _kind(kind: str, count: int, token: int, fixed: int) -> str:
    each = f"{token * count} bytes a token" if token else f"{fixed * count} bytes"
    names = {"kv": "full", "rotating": "sliding", "arrays": "state", "chunked": "chunked"}
    return f"{count} x {names.get(kind, kind)}: {each}"


def _outcome(host: Host, model: Model, plan: Plan) -> Iterator[str]:
    for placement in plan.placements:
        if placement.model == model.slug and placement in plan.on(host.name):
            where = "; ".join(f"{name}, {on}" for name, on in placement.where.items())
            yield f"  placed: {placement.instance} on {where}: {gib(placement.need.total)} on each"
    for refusal in plan.refusals:
        if (refusal.host, refusal.model) == (host.name, model.slug):
            yield f"  refused: {refusal.reason}"
            for way in refusal.ways_out:
                yield f"    → {way}"
