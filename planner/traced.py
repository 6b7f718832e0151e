"""What the hollow model told of itself: what the lock keeps of a model, and nothing that guesses.

All sizes are bytes as MLX allocates them. Cache kinds and programs are enough to answer for any
context, concurrency and prefill step without loading the model again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from planner.record import Record

# B sequences in the batch, S tokens of each in this step, T tokens of each in the cache after it.
BASIS = ("1", "B", "S", "T", "BS", "BT", "ST", "BST")
Polynomial = tuple[int, ...]  # coefficients in the order of BASIS


def value(polynomial: Polynomial, batch: int, step: int, tokens: int) -> int:
    """A polynomial at a point; both are bytes."""
    one, b, s, t, bs, bt, st, bst = polynomial
    per_sequence = b + bs * step + (bt + bst * step) * tokens
    return one + s * step + (t + st * step) * tokens + per_sequence * batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind(Record):
    """Caches that behave alike: ``count`` of them, one for each layer that has such a one."""

    kind: str  # kv, rotating, arrays, chunked
    count: int
    token_bytes: int = 0  # of one sequence in one such cache, for each token it keeps
    fixed_bytes: int = 0  # of one sequence in one such cache, whatever its length
    window: int = 0  # tokens kept by a rotating or chunked cache; 0: all


@dataclass(frozen=True, slots=True, kw_only=True)
class Program(Record):
    """What one forward pass needs over weights and caches, counted on its graph.

    MLX hands out buffers faster than they are used up: a buffer is given back only when the
    device has got that far. ``live`` has, for a number of operations that the device may lag
    behind, the polynomials of which the largest is the peak.
    """

    operations: int
    reads: Polynomial  # bytes that all operations read: what MLX counts to close a command buffer
    live: Mapping[int, tuple[Polynomial, ...]]

    def peak(self, lag: int, *, batch: int, step: int, tokens: int) -> int:
        """Bytes live at the worst moment when the device lags ``lag`` operations behind."""
        known = sorted(self.live)
        chosen = next((known_lag for known_lag in known if known_lag >= lag), known[-1])
        return max((value(p, batch, step, tokens) for p in self.live[chosen]), default=0)

    def to_json(self) -> dict[str, object]:
        return {
            "operations": self.operations,
            "reads": self.reads,
            "live": {str(lag): rows for lag, rows in self.live.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Program:
        return cls(
            operations=int(data["operations"]),
            reads=tuple(data["reads"]),
            live={int(lag): tuple(map(tuple, rows)) for lag, rows in data["live"].items()},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rank(Record):
    """What one process holds of the model: the whole of it, or its part under tensor parallelism.

    ``prefill`` computes attention in steps, ``fused`` as one kernel where a GPU has one for it.
    """

    weights: int
    kinds: tuple[Kind, ...]
    prefill: Program
    fused: Program
    decode: Program

    def to_json(self) -> dict[str, object]:
        return {
            "weights": self.weights,
            "kinds": [kind.to_json() for kind in self.kinds],
            "prefill": self.prefill.to_json(),
            "fused": self.fused.to_json(),
            "decode": self.decode.to_json(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Rank:
        programs = {name: Program.from_json(data[name]) for name in ("prefill", "fused", "decode")}
        kinds = tuple(Kind(**kind) for kind in data["kinds"])
        return cls(weights=int(data["weights"]), kinds=kinds, **programs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Traced(Record):
    """One model at one commit, as one version of mlx-lm loads and runs it."""

    mlx_lm: str
    mlx: str
    model_type: str
    layers: int
    batchable: bool  # False: a cache has no `merge`, so requests are served one at a time
    context_max: int | None  # what the configuration says of the longest context
    head_dims: tuple[int, ...]  # the sizes of a head that attention was called with, ascending
    dtype: str  # of the activations
    loading: int  # transient bytes over the weights while they are read
    ranks: Mapping[int, Rank | str]  # by world size; a sentence where it cannot be sharded
    assumed: tuple[str, ...] = ()  # what was not read from the checkpoint, and from where it is

    def rank(self, size: int) -> Rank | str:
        """One of ``size`` ranks, or why there is none."""
        return self.ranks.get(size, f"tensor parallelism over {size} GPUs was not traced")

    def to_json(self) -> dict[str, object]:
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        ranks = {
            str(size): rank if isinstance(rank, str) else rank.to_json()
            for size, rank in self.ranks.items()
        }
        return {**fields, "ranks": ranks}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Traced:
        """The reverse of ``to_json``. Raises KeyError, TypeError or ValueError on other data."""
        ranks = {
            int(size): rank if isinstance(rank, str) else Rank.from_json(rank)
            for size, rank in data["ranks"].items()
        }
        sequences: dict[str, Sequence[Any]] = {
            name: tuple(data.get(name, ())) for name in ("head_dims", "assumed")
        }
        return cls(**{**data, **sequences, "ranks": ranks})
