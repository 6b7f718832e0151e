"""Every rule that was checked for a model, with its numbers, as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from planner.amounts import gib
from planner.declared import Host, Model
from planner.demand import Settings, work
from planner.fitting import Candidate, Devices, Lock, attention, by_kind, candidate, on_each_host
from planner.fleet import span_of
from planner.plan import Plan, Space
from planner.spaces import processors, without_kernels
from planner.traced import SIZES, Rank, Traced


def why(
    name: str, hosts: Sequence[Host], lock: Lock, plan: Plan, *, mlx_lm: str | None = None
) -> str:
    """The rules for the model that is called ``name`` or has that slug, on every host."""
    lines: list[str] = []
    on = processors(hosts, {})
    for host in hosts:
        for model in host.models:
            if name in {model.name, model.slug}:
                span = span_of(host, model, hosts)
                traced = lock.traced(model, on[host.name], mlx_lm=mlx_lm)
                lines += _on(host, model, traced, plan, [one.name for one in span])
    return "\n".join(lines) or f"no host declares a model `{name}`"


def _on(
    host: Host, model: Model, traced: Traced | str | None, plan: Plan, span: Sequence[str]
) -> Iterator[str]:
    yield f"{host.name}: {model.slug} ({model.source})"
    yield f"  asked for: {model.context} tokens of context, {model.concurrency} requests at once"
    if not isinstance(traced, Traced):
        yield f"  not traced: {traced or 'not in models.lock'}"
        return
    yield f"  traced: {traced.model_type}, {traced.layers} layers, by mlx-lm {traced.mlx_lm}"
    for words in traced.assumed:
        yield f"  assumed: {words}"
    for words in plan.warnings:
        if words.startswith(f"{host.name}: {model.slug}: "):
            yield f"  but {words.removeprefix(f'{host.name}: {model.slug}: ')}"
    if not traced.batchable:
        yield f"  served one at a time: {traced.alone}"
    spaces = tuple(space for space in plan.spaces if space.host == host.name)
    for space in spaces:
        where = "memory" if space.gpu is None else f"GPU {space.gpu}, {space.name}"
        device = Devices().on(host).of(space)
        yield (
            f"  {where}: {gib(space.total)}, of which {device.usable_share:.0%} less what others "
            f"hold: {gib(space.usable)}"
        )
    if not spaces:
        yield f"  {plan.undecided[host.name]}"
        return
    if len(span) > 1:
        yield f"  may go over {len(span)} hosts: {', '.join(span)}"
        spaces = tuple(space for space in plan.spaces if space.host in span)
    if not without_kernels(host, spaces):
        yield from _rules(model, traced, spaces, Devices().on(host))
    yield from _outcome(host, model, plan)


def _rules(
    model: Model, traced: Traced, spaces: Sequence[Space], devices: Devices
) -> Iterator[str]:
    if model.gpus is not None:
        spaces = [space for space in spaces if space.gpu in model.gpus]
    kinds = {space.compute_capability: space for space in spaces}
    for space in kinds.values():
        on = f" on {space.name}" if len(kinds) > 1 else ""
        yield f"  attention{on}: {attention(traced, space)[1]}"
    cpu = all(space.gpu is None for space in spaces)
    for size in _sizes(model, spaces):
        rank = traced.rank(size)
        many = "one GPU" if size == 1 else f"{size} GPUs"
        if cpu:
            many = "this host" if size == 1 else f"{size} processes"
        judged = _judged(model, spaces, size)
        if not judged:
            yield f"  {many}: there are no more than {on_each_host(spaces)[0]} of one kind"
            return
        if not isinstance(rank, Rank):
            yield f"  {many}: {rank}"
            continue
        yield f"  {many}: weights {gib(rank.weights)} on each; of caches for a sequence:"
        for kind in rank.kinds:
            yield f"    {_kind(kind.kind, kind.count, kind.token_bytes, kind.fixed_bytes)}" + (
                f", the last {kind.window} tokens" if kind.window else ""
            )
        able = candidate(model, traced, size)
        assert able is not None, "its rank is there"  # noqa: S101
        yield from _rungs(able, judged, devices)
        for words in devices.of(judged[0]).assumed.values():
            yield f"    assumed: {words}"


def _sizes(model: Model, spaces: Sequence[Space]) -> tuple[int, ...]:
    """Over how many devices it may go; of more GPUs than there are, how many there are is told."""
    if model.ranks:
        return (model.ranks,)
    if model.gpus is not None:
        return (len(spaces),) if spaces else ()
    if all(space.gpu is None for space in spaces):
        return tuple(size for size in SIZES if size <= len(spaces))
    return SIZES


def _rungs(able: Candidate, judged: Sequence[Space], devices: Devices) -> Iterator[str]:
    for settings in able.rungs():
        need = able.need(settings, judged, devices)
        usable = min(space.usable for space in judged)
        fits = "fits" if need.total <= usable else "does not fit"
        told = (
            f"{settings.prompt_concurrency} prompts x {settings.prefill_step} tokens, "
            f"{settings.prompt_cache_entries} kept"
        )
        loading = need.work == able.traced.loading
        worst = "loading" if loading else _worst(able, settings, judged, devices)
        yield (
            f"    {told}: weights {gib(need.weights)} + KV {gib(need.kv)} + kept "
            f"{gib(need.prompt_cache)} + work {gib(need.work)} ({worst}) + process "
            f"{gib(need.process)} = {gib(need.total)} of {gib(usable)}: {fits}"
        )


def _judged(model: Model, spaces: Sequence[Space], size: int) -> Sequence[Space]:
    """The devices on which so many ranks would be: pinned by hand, else those with most room."""
    if model.gpus is not None or spaces[0].gpu is None:
        return spaces
    by_room = sorted(spaces, key=lambda space: -space.usable)
    kinds = by_kind(by_room, lambda space: space.name)
    enough = [alike[:size] for alike in kinds if len(alike) >= size]
    return max(enough, key=lambda alike: alike[-1].usable, default=())


def _worst(able: Candidate, settings: Settings, spaces: Sequence[Space], devices: Devices) -> str:
    """What takes the most work, on the device where a rank takes the most."""
    space = max(spaces, key=lambda one: able.need(settings, [one], devices).total)
    fused = attention(able.traced, space)[0]
    context, device = able.model.context, devices.of(space)
    parts = work(able.traced, able.rank, settings, context, device, fused=fused)
    return max(parts, key=parts.__getitem__)


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
