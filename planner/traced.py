"""What the hollow model told of itself: what the lock keeps of a model, and nothing that guesses.

All sizes are bytes as MLX allocates them. Cache kinds and programs are enough to answer for any
context, concurrency and prefill step without loading the model again.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar, get_args

from planner.program import Behind, Point, Program, Sized
from planner.record import Record

T = TypeVar("T")
FUSED_HEAD = 128
# Which a model is traced for. An older GPU, of a compute capability under 8.0, has no kernel for
# attention and works it off in steps; its host may have newer ones beside it.
Processor = Literal["cpu", "gpu", "older gpu"]
PROCESSORS: tuple[Processor, ...] = get_args(Processor)
SIZES = (1, 2, 4, 8)  # ranks that a model is traced for: the numbers of GPUs that machines have


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind(Record):
    """Caches that behave alike: ``count`` of them, one for each layer that has such a one."""

    kind: str  # kv, rotating, arrays, chunked
    count: int
    token_bytes: int = 0  # of one sequence in one such cache, for each token it keeps
    fixed_bytes: int = 0  # of one sequence in one such cache, whatever its length
    window: int = 0  # tokens kept by a rotating or chunked cache; 0: all
    # Of one sequence, kept alive for each token of the pass that filled it: it holds a view.
    viewed_bytes: int = 0
    viewed_uneven_bytes: int = 0  # the same of uneven prompts, in an array cache
    # Of one sequence in one array cache between two steps of generation, over `fixed_bytes`: what
    # the state after the step is made of, since nobody evaluates it before the next.
    step_bytes: int = 0

    @property
    def kept_bytes(self) -> int:
        """Of one sequence in an array cache that was evaluated after a step, with its views."""
        return self.fixed_bytes + min(self.viewed_bytes, self.step_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rank(Record):
    """What one process holds of the model: the whole of it, or its part of several ranks."""

    weights: int
    kinds: tuple[Kind, ...]

    def to_json(self) -> dict[str, object]:
        return {"weights": self.weights, "kinds": [kind.to_json() for kind in self.kinds]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Rank:
        kinds = tuple(Kind(**kind) for kind in data["kinds"])
        return cls(weights=int(data["weights"]), kinds=kinds)


def endings(processor: Processor, dtype: str, head_dims: Sequence[int]) -> tuple[str, ...]:
    """What the names of prompts' evaluations end with on a processor: how attention is done there.

    "" on a CPU, " kernels" in steps on a GPU, " fused" where one kernel does it.
    """
    if processor == "cpu":
        return ("",)
    if in_steps(dtype, head_dims):
        return (" kernels",)
    return (" fused",) if processor == "gpu" else (" kernels", " fused")


def joined(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Programs, as JSON, of both; what is in both is of different steps, and gets all of them."""
    made = {**one, **other}
    for name in one.keys() & other.keys():
        steps = {**one[name]["steps"], **other[name]["steps"]}
        made[name] = {"steps": dict(sorted(steps.items(), key=lambda step: int(step[0])))}
    return made


def in_steps(dtype: str, head_dims: Sequence[int]) -> str:
    """Why no GPU has one kernel for attention on such heads, "" where one may have.

    Heads of up to 128 in eights and 16-bit types
    (mlx/backend/cuda/scaled_dot_product_attention.cpp, as of 2026-08).
    """
    if dtype not in {"bfloat16", "float16"}:
        return f"the kernel takes 16-bit types, this is {dtype or 'none'}"
    if not head_dims or any(size > FUSED_HEAD or size % 8 for size in head_dims):
        sizes = ", ".join(map(str, head_dims)) or "none seen"
        return f"heads of {sizes}; the kernel takes up to {FUSED_HEAD}, in eights"
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traced(Record):
    """One model at one commit, as one version of mlx-lm loads it and runs it on a processor."""

    mlx_lm: str
    mlx: str
    model_type: str
    layers: int
    parameters: int
    alone: str  # why requests are served one at a time; "" where they are served together
    context_max: int | None  # what the configuration says of the longest context
    head_dims: tuple[int, ...]  # of queries and of values, where attention was called
    dtype: str  # of what attention was called with
    logits_row_bytes: int  # the scores of one next token
    loading: int  # transient bytes over the weights while they are read
    ranks: Mapping[int, Rank | str]  # by world size; a sentence where it cannot be sharded
    # Of the whole model: a rank's own are smaller.
    programs: Mapping[str, Program]
    assumed: tuple[str, ...] = ()  # what was not read from the checkpoint, and from where it is
    # What was asked before: the same model is placed on many hosts under the same settings.
    _asked: dict[Any, Any] = field(default_factory=dict, init=False, compare=False, repr=False)

    @property
    def batchable(self) -> bool:
        """Whether several sequences are served at once."""
        return not self.alone

    @property
    def longest_step(self) -> int | None:
        """Tokens of the longest step of a prompt that was traced; None: any."""
        steps = (it.longest for name, it in self.programs.items() if name.startswith("chunk"))
        return min((step for step in steps if step), default=None)

    def rank(self, size: int) -> Rank | str:
        """One of ``size`` ranks, or why there is none."""
        return self.ranks.get(size, f"tensor parallelism over {size} GPUs was not traced")

    def lighter(self, share: float) -> Traced:
        """The same with ``share`` of each weight's bytes, and all else alike."""
        ranks = {
            size: replace(rank, weights=int(rank.weights * share))
            if isinstance(rank, Rank)
            else rank
            for size, rank in self.ranks.items()
        }
        made = replace(self, ranks=ranks)
        made._asked.update(self._asked)  # noqa: SLF001 - what hangs on weights says of which
        return made

    def once(self, asked: Hashable, answer: Callable[[], T]) -> T:
        """The ``answer`` to what is ``asked`` of this model, worked out when it is asked first."""
        if asked not in self._asked:
            self._asked[asked] = answer()
        known: T = self._asked[asked]
        return known

    def over(
        self,
        name: str,
        behind: Behind,
        point: Point,
        *,
        longest: int | None = None,
        after: Sequence[tuple[str, Point, int]] = (),
    ) -> int:
        """Bytes over weights and caches in the evaluation ``name``.

        Raises KeyError where it was not traced, but for what was made without any.

        A model with a window has two recordings, of contexts within it and past it. Past it by up
        to a step nothing is cut off yet, so that each is an upper bound. ``longest`` are the tokens
        that a cache with a window ever saw, where those are not as many (None) as in one that keeps
        them all.
        ``after`` are evaluations (the last is their ``longest``) that the device may still be at,
        since nobody waited for them.
        """
        asked = (name, behind, point, longest, tuple(after))
        return self.once(asked, lambda: self._over(*asked))

    def _over(
        self,
        name: str,
        behind: Behind,
        point: Point,
        longest: int | None,
        after: Sequence[tuple[str, Point, int]],
    ) -> int:
        before: list[Sized] = []
        for earlier in after:
            for key, at in self._programs(*earlier)[:1]:
                before += self.programs[key].sized(behind, at)[:1]
        programs = self._programs(name, point, longest)
        if not programs and self.programs:
            raise KeyError(f"`{name}` was not traced")
        return min((self._peak(key, behind, at, before) for key, at in programs), default=0)

    def _peak(self, key: str, behind: Behind, point: Point, before: Sequence[Sized]) -> int:
        """Of what was recorded for short steps only, what it takes more than a chunk does there."""
        program = self.programs[key]
        short = program.longest
        if short is None or short >= point.step:
            return program.peak(behind, point, before)
        chunk = self.programs["chunk" + key.removeprefix(key.partition(" ")[0])]
        there = point._replace(step=short)
        more = program.peak(behind, there, before) - chunk.peak(behind, there, before)
        return chunk.peak(behind, point, before) + max(0, more)

    def _programs(self, name: str, point: Point, longest: int | None) -> list[tuple[str, Point]]:
        """Those that are upper bounds of the evaluation ``name``, and what to ask them for."""
        longest = longest or point.tokens
        past, within = (key in self.programs for key in (name, f"{name} within"))
        found: list[tuple[str, Point]] = []
        if past and (not within or longest > self._window):
            found.append((name, point))
        if within and (not past or longest < self._window + point.step):
            found.append((f"{name} within", point._replace(tokens=longest)))
        return found

    @property
    def _window(self) -> int:
        """The smallest window of a cache."""
        rank = self.ranks[1]
        kinds = rank.kinds if isinstance(rank, Rank) else ()
        return min((kind.window for kind in kinds if kind.window), default=0)

    def to_json(self) -> dict[str, object]:
        names = [name for name in self.__dataclass_fields__ if not name.startswith("_")]
        fields = {name: getattr(self, name) for name in names}
        ranks = {
            str(size): rank if isinstance(rank, str) else rank.to_json()
            for size, rank in sorted(self.ranks.items())
        }
        programs = {name: program.to_json() for name, program in self.programs.items()}
        return {**fields, "ranks": ranks, "programs": programs}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Traced:
        """The reverse of ``to_json``. Raises KeyError, TypeError or ValueError on other data."""
        return cls(
            **{
                **data,
                "head_dims": tuple(data["head_dims"]),
                "assumed": tuple(data.get("assumed", ())),
                "ranks": {
                    int(size): rank if isinstance(rank, str) else Rank.from_json(rank)
                    for size, rank in data["ranks"].items()
                },
                "programs": {
                    name: Program.from_json(program) for name, program in data["programs"].items()
                },
            }
        )
