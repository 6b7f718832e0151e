"""A layer that is like one before it is not recorded again: what was recorded of that is put there.

It is like that one if it is of the same kind, and is called with the same: numbers, and arrays of
the same shapes, in its caches too. What a call does to a cache is then done to its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import mlx.core as mx
from mlx_lm.models import cache as caches

from planner.hollow import graph
from planner.hollow.pieces import Piece, Pieces
from planner.hollow.recording import instead
from planner.hollow.slots import fill, get, parameters

PLAIN = (type(None), bool, int, float, str, mx.Dtype)  # what is compared as it is
KERNELS = ("rms_norm", "scaled_dot_product_attention")  # or what is in their places
Call = Callable[..., Any]
Rest = tuple[Any, ...]  # what is left of a value when its arrays and caches are taken out


class _Else(Exception):  # noqa: N818 -- then the layer is recorded as it is
    """A layer is given, or makes, what is neither plain nor an array nor a cache."""


class _Apart:
    """Values, taken apart: arrays, caches, and the rest, which can be compared."""

    def __init__(self) -> None:
        self.arrays: list[mx.array] = []
        self.caches: list[Any] = []
        self._seen: dict[int, int] = {}
        self._held = False  # by a cache

    def take(self, value: Any) -> Rest:  # noqa: ANN401 -- whatever a layer is given
        """The rest of ``value``."""
        kind = type(value)
        if kind in PLAIN:
            return kind, value
        if kind is tuple or (kind is list and self._held):  # else it could be changed unseen
            return kind, tuple(map(self.take, value))
        if kind is dict and self._held:
            return kind, tuple((key, self.take(held)) for key, held in value.items())
        if isinstance(value, mx.array):
            return mx.array, self._number(value, self.arrays)
        if isinstance(value, caches._BaseCache):  # noqa: SLF001 -- what all are
            if id(value) in self._seen:
                return "again", self._seen[id(value)]
            at, held = self._number(value, self.caches), self._held
            self._held = True
            state = self.take(dict(vars(value)))
            self._held = held
            return "cache", at, kind, state
        raise _Else

    def _number(self, value: object, of: list[Any]) -> int:
        at = self._seen.setdefault(id(value), len(of))
        if at == len(of):
            of.append(value)
        return at


def _together(rest: Rest, arrays: Sequence[mx.array], held: Sequence[Any]) -> Any:  # noqa: ANN401
    """The value of which ``rest`` is left, with these arrays; caches are changed in their place."""
    kind, what = rest[:2]
    if kind is list or kind is tuple:
        return kind(_together(each, arrays, held) for each in what)
    if kind is dict:
        return {key: _together(each, arrays, held) for key, each in what}
    if kind is mx.array:
        return arrays[what]
    if kind == "cache":
        state = _together(rest[-1], arrays, held)
        vars(held[what]).clear()
        vars(held[what]).update(state)
    return held[what] if kind in {"cache", "again"} else what


@dataclass(frozen=True)
class _Recorded:
    piece: Piece
    rest: Rest  # of the caches after it, and of what it returns


class Layers:
    """Those of a model, by their kinds, and what was recorded of them."""

    def __init__(self, kinds: Mapping[int, int]) -> None:
        self.kinds = kinds  # by the ``id`` of each
        self._known: dict[object, _Recorded | None] = {}
        self._within = False  # a layer that is being recorded

    @contextlib.contextmanager
    def once(self, layers: Sequence[Any]) -> Iterator[Pieces]:
        """Record those of ``layers`` that are alike once: what stands for them is put in pieces."""
        pieces = Pieces()
        classes = {type(layer) for layer in layers if id(layer) in self.kinds}
        stand_ins = {(each, "__call__"): self._instead(each.__call__, pieces) for each in classes}
        with instead(stand_ins):
            yield pieces

    def _instead(self, call: Call, pieces: Pieces) -> Call:
        """What stands in for the ``__call__`` of a class of layers."""

        def called(layer: Any, *args: Any, **more: Any) -> Any:  # noqa: ANN401 -- mlx has no types
            given = _Apart()
            if id(layer) not in self.kinds or self._within:
                return call(layer, *args, **more)
            try:
                rest = given.take((args, tuple(more.items())))
                weights = [get(holder, key) for _, holder, key in parameters("", layer)]
                arrays = [*given.arrays, *weights]
                sorts = tuple([(tuple(array.shape), array.dtype) for array in arrays])
                known = (call, *map(vars(mx.fast).get, KERNELS), self.kinds[id(layer)], rest, sorts)
                record = partial(self._record, call, layer, given, rest, arrays)
                recorded = self._recorded(known, record)
            except Exception:  # noqa: BLE001 -- what it cannot do either way it raises here
                return call(layer, *args, **more)
            made = pieces.put(recorded.piece, arrays)
            return _together(recorded.rest, made, given.caches)[-1]

        return called

    def _recorded(self, known: object, record: Callable[[], _Recorded]) -> _Recorded:
        """What is known by this already, or else is recorded."""
        if known not in self._known:
            self._known[known] = None  # what cannot be is not tried again
            self._known[known] = record()
        recorded = self._known[known]
        if recorded is None:
            raise _Else
        return recorded

    def _record(
        self,
        call: Call,
        layer: Any,  # noqa: ANN401
        given: _Apart,
        rest: Rest,
        arrays: Sequence[mx.array],
    ) -> _Recorded:
        weights = list(parameters("", layer))
        after: list[tuple[Rest, list[mx.array]]] = []

        def run(**named: mx.array) -> list[mx.array]:
            held = [named[str(at)] for at in range(len(arrays))]
            fill(weights, held[len(given.arrays) :])
            args, more = _together(rest, held, given.caches)
            result = call(layer, *args, **dict(more))
            made = _Apart()
            left = made.take((*given.caches, result))
            if len(made.caches) > len(given.caches):
                raise _Else
            after.append((left, made.arrays))
            return made.arrays

        self._within = True
        try:
            recorded = graph.record(
                run, {str(at): array for at, array in enumerate(arrays)}, lambda _: False
            )
        finally:
            self._within = False
            _together(rest, arrays, given.caches)
            fill(weights, arrays[len(given.arrays) :])
        ((left, made),) = after
        reads = tuple(recorded.arguments[str(at)] for at in range(len(arrays)))
        makes = tuple((tuple(array.shape), array.dtype) for array in made)
        return _Recorded(Piece(recorded, reads, makes), left)
