"""What serving a model takes, by part, under settings that bound it.

The worst case is the server's own (mlx_lm 0.32.2, ``generate.py``, ``BatchGenerator``): a batch is
padded to its longest sequence; prompts go on being admitted while the batch has one place left, so
``decode + prompt - 1`` sequences can be alive; what is kept for reuse is one sequence an entry,
since the launcher evaluates an entry when it is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from planner.program import Behind, Point
from planner.record import Record
from planner.traced import Kind, Rank, Traced

GIB = 2**30
STEP = 256  # tokens by which a cache grows (mlx_lm/models/cache.py, `KVCache.step`)
PREFILL_STEPS = (2048, 1024, 512, 256)  # tokens of a prompt in one pass, from which a plan chooses


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(Record):
    """What the server is told, so that its worst case is bounded at all."""

    prompt_concurrency: int  # sequences prefilled together
    decode_concurrency: int  # sequences generated for together
    prefill_step: int  # tokens of a prompt in one forward pass
    prompt_cache_entries: int  # finished sequences kept for reuse
    memory_limit_bytes: int = 0  # mx.set_memory_limit
    cache_limit_bytes: int = 0  # mx.set_cache_limit: freed buffers kept for reuse

    @property
    def sequences(self) -> int:
        """The most that are alive at once."""
        return self.decode_concurrency + self.prompt_concurrency - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Device(Record):
    """What MLX does on a device beyond the model's own arithmetic; every figure has its source."""

    name: str
    usable_share: float
    process_bytes: int  # of one process, outside of MLX's count
    group_bytes: int  # of one rank of a group, on top
    behind: Behind
    # By field, where nobody measured.
    assumed: Mapping[str, str] = field(default_factory=dict, hash=False)

    def on(self, capability: str) -> Device:
        """The same GPU's with a card of this compute capability."""
        return replace(self, behind=buffers(*LIMITS.get(capability, OTHER_LIMITS)))

    def measured(self, figures: Mapping[str, int]) -> Device:
        """The same with ``figures``, by field, of a measurement."""
        left = {name: words for name, words in self.assumed.items() if name not in figures}
        changed: dict[str, Any] = {**figures, "assumed": left}
        return replace(self, **changed)


# Tasks of 10 dispatches, of which 10 may be outstanding and one is being filled
# (mlx/backend/cpu/encoder.h, DISPATCHES_PER_TASK; mlx/transforms.cpp, MAX_ACTIVE_TASKS).
CPU = Device(
    name="cpu",
    usable_share=0.9,
    process_bytes=GIB // 2,
    group_bytes=GIB // 16,
    behind=Behind(lag=110),
    assumed={"usable_share": "a tenth of a CPU host's memory is left to everything else"},
)
# Command buffers by compute capability: kernels, and what MLX calls megabytes read, which are 2**20
# elements each, of whatever type (mlx/backend/cuda/device.cpp, `get_graph_limits`, `needs_commit`,
# `set_input_array`; `array::data_size` is in elements).
LIMITS = {"8.0": (20, 400), "12.1": (20, 25)} | dict.fromkeys(("9.0", "10.0", "12.0"), (100, 1000))
OTHER_LIMITS = (20, 100)


def buffers(kernels: int, megas: int) -> Behind:
    """Of which 10 may be outstanding and one is filled (mlx/transforms.cpp, MAX_ACTIVE_TASKS)."""
    return Behind(commits=11, kernels=kernels, elements=(megas + 1) << 20)


CUDA = Device(
    name="cuda",
    # MLX's own limit: mlx/backend/cuda/allocator.cpp, `memory_limit_`.
    usable_share=0.95,
    # Not measured here: exo reserves 2 GB for the same (github.com/exo-explore/exo, pull 2300).
    process_bytes=2 * GIB,
    group_bytes=GIB // 2,
    behind=buffers(*LIMITS["12.0"]),  # of others: ``on``
    assumed={
        "process_bytes": (
            "2 GiB for a CUDA process (context, cuBLASLt, cuDNN, graphs): exo's reserve"
        ),
        "group_bytes": "0.5 GiB for NCCL's buffers in each rank",
    },
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Need(Record):
    """Bytes on one device, by part; ``total`` is the worst moment."""

    weights: int
    kv: int  # caches of the sequences alive
    prompt_cache: int  # finished sequences kept for reuse
    work: int  # the largest of what comes and goes: loading, prefill, copies of caches
    process: int  # outside of MLX's count

    @property
    def total(self) -> int:
        return self.weights + self.kv + self.prompt_cache + self.work + self.process

    @property
    def mlx(self) -> int:
        """What MLX itself counts."""
        return self.total - self.process

    def to_json(self) -> dict[str, object]:
        parts = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**parts, "total": self.total}


EVER = 2**40  # tokens, beyond any window


def kept_tokens(kind: Kind, tokens: int, step: int, *, together: bool) -> int:
    """Tokens that one cache of a live batch has room for, after ``tokens`` of the longest.

    ``together``: there may be others in the batch. A rotating cache keeps their padding until none
    is left in it (``BatchRotatingKVCache.filter``), so that it grows to its window whatever they
    are.
    """
    # A cache grows by whole steps from wherever it was: up to 255 tokens more than it holds.
    room = tokens + STEP - 1
    if kind.kind == "rotating":
        most = kind.window + max(step, STEP) - 1
        return most if together else min(room, most)
    if kind.kind == "chunked":
        return min(room, kind.window + step + STEP - 1)
    return room


def sequence_bytes(rank: Rank, tokens: int, step: int, *, together: bool = False) -> int:
    """One sequence's caches in a live batch; ``together`` as in ``kept_tokens``."""
    total = 0
    for kind in rank.kinds:
        kept = kept_tokens(kind, tokens, step, together=together)
        total += kind.count * (kind.token_bytes * kept + kind.fixed_bytes + kind.step_bytes)
    return total


def viewed_bytes(rank: Rank, tokens: int, *, arrays_only: bool = False) -> int:
    """What caches keep alive by views of one sequence's ``tokens`` in a pass, over what they hold.

    Of array caches after every pass; of the others after the first of a prompt.
    """
    return tokens * sum(
        kind.count * max(kind.viewed_bytes, kind.viewed_uneven_bytes)
        for kind in rank.kinds
        if kind.kind == "arrays" or not arrays_only
    )


def entry_bytes(rank: Rank, tokens: int, step: int, *, batch: int = 1) -> int:
    """One finished sequence kept for reuse: what it holds, without room to grow.

    What an array cache gives out of a ``batch`` is a slice, which keeps the batch's array alive,
    and what that is a view of after one token.
    """
    total = 0
    for kind in rank.kinds:
        kept = tokens
        if kind.kind in {"rotating", "chunked"}:
            kept = min(tokens, kind.window + step - 1)
        total += kind.count * (kind.token_bytes * kept + kind.kept_bytes * batch)
    return total


class Load(NamedTuple):
    """The most that is there at once."""

    sequences: int
    prompts: int  # of them, read together
    step: int  # tokens of each in a chunk
    longest: int  # tokens of the longest in its batch, with its padding

    @property
    def together(self) -> bool:
        """Whether a sequence may have others beside it."""
        return self.sequences > 1


def load(traced: Traced, settings: Settings, context: int) -> Load:
    """What the server may have at once under ``settings``, at ``context`` tokens.

    Prompts that are read together are padded to the longest chunk (generate.py,
    ``PromptProcessingBatch.prompt``): where a token is left of the longest prompt and a whole chunk
    of another, to nearly a chunk.
    """
    step = min(settings.prefill_step, context)
    if not traced.batchable:
        return Load(1, 1, step, context)
    padding = step - 1 if settings.prompt_concurrency > 1 else 0
    return Load(settings.sequences, settings.prompt_concurrency, step, context + padding)


def need(
    traced: Traced,
    rank: Rank,
    settings: Settings,
    context: int,
    device: Device,
    *,
    ranks: int = 1,
    fused: bool = False,
) -> Need:
    """The worst that one of ``ranks`` processes can come to hold at ``context`` tokens."""
    sequences, prompts, step, longest = most = load(traced, settings, context)
    one = sequence_bytes(rank, longest, settings.prefill_step, together=most.together)
    entry = entry_bytes(rank, context, settings.prefill_step, batch=sequences)
    # While a pass makes new views, those of the pass before it are there too.
    before = prompts * viewed_bytes(rank, step, arrays_only=True)
    passes = work(traced, rank, settings, context, device, fused=fused)
    return Need(
        weights=rank.weights,
        # With the scores of this step and of the next, and the tokens.
        kv=(one + 2 * traced.logits_row_bytes + 4 * context) * sequences
        + prompts * viewed_bytes(rank, step),
        prompt_cache=entry * settings.prompt_cache_entries,
        work=max(0, traced.loading, before + max(passes.values(), default=0)),
        process=device.process_bytes + (device.group_bytes if ranks > 1 else 0),
    )


def work(
    traced: Traced,
    rank: Rank,
    settings: Settings,
    context: int,
    device: Device,
    *,
    fused: bool = False,
) -> dict[str, int]:
    """Bytes over weights and caches at the worst moment of each of the server's evaluations.

    ``moved`` is the chunk after some prompts of a batch went to those generated for: the batch that
    all of them lay in is there until those that stay are copied out of it, by that chunk
    (generate.py, ``PromptProcessingBatch.split``), and what went is there twice.
    """
    sequences, prompts, step, longest = most = load(traced, settings, context)
    way = "" if not device.behind.commits else " fused" if fused else " kernels"
    seen = EVER if most.together else longest  # by a cache with a window
    # What copies caches copies all that they have room for.
    room = longest + STEP - 1 if most.together else -(-longest // STEP) * STEP
    token = Point(sequences, 1, room)
    # A chunk does not wait for the token that those generated for get before it.
    before = [("join", token, seen)] if most.together else []

    def over(name: str, batch: int) -> int:
        return traced.over(name, device.behind, Point(batch, 1, room), longest=seen)

    def chunk(name: str, batch: int) -> int:
        where = Point(batch, step, room)
        return traced.over(name + way, device.behind, where, longest=seen, after=before)

    generated = "join" if traced.batchable else "step"
    found = {generated: over(generated, sequences)}
    found["chunk"] = chunk("chunk", prompts)
    if prompts > 1:
        one = sequence_bytes(rank, longest, settings.prefill_step, together=True)
        # One that went is in the recording.
        twice = {batch: (prompts - batch - 1) * one for batch in range(1, prompts)}
        found["moved"] = max(more + chunk("stay", batch) for batch, more in twice.items())
        found["admitted"] = chunk("admit", prompts)
        found["roll"] = over("roll", prompts)
    return found


def ladder(concurrency: int, traced: Traced) -> tuple[Settings, ...]:
    """Settings for ``concurrency`` requests at once, the most generous first.

    What costs the client least is given up first: kept sequences down to two, then prompts
    prefilled together, then the step, then the last kept sequences.
    """
    decode = concurrency if traced.batchable else 1
    together = sorted({min(decode, prompts) for prompts in (4, 2, 1)}, reverse=True)
    # None that is longer than what was traced.
    most, *less = [step for step in PREFILL_STEPS if step <= (traced.longest_step or step)]
    rungs: list[tuple[int, int, int]] = [(together[0], most, entries) for entries in (8, 4, 2)]
    rungs += [(prompts, most, 2) for prompts in together[1:]]
    rungs += [(1, step, 2) for step in less]
    rungs += [(1, STEP, 1), (1, STEP, 0)]
    made: list[Settings] = []
    for prompts, step, entries in rungs:
        settings = Settings(
            prompt_concurrency=prompts,
            decode_concurrency=decode,
            prefill_step=step,
            prompt_cache_entries=entries,
        )
        if settings not in made:
            made.append(settings)
    return tuple(made)
