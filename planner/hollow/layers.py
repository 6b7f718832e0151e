"""Which layers of a model tell of all: those alike, behind others that are, do the same."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx.utils import tree_flatten
from mlx_lm.models import cache as caches

from planner.hollow.model import leaves

# Layers one after the other that a device may be at, where one of them has a part for each token:
# of 256 tokens, hundreds of operations.
TOGETHER = 5


@dataclass(frozen=True, kw_only=True)
class Alike:
    """The ``first`` layers have all neighbours that any have, ``TOGETHER`` of them."""

    first: int
    kinds: int  # so many of the first are of all kinds, each with another after it that needs it
    ending: int  # so many of the first, and more than those, end as all of them end
    like: tuple[int, ...]  # of each with a cache, one of these that has the same before it
    # What layers add up to, by how many of the first they are: so often taken, it is what those
    # that follow the ``first`` add, which come again and again.
    sum: Mapping[int, int]


def alike(model: Any, examples: Sequence[Any], kinds_of: Mapping[int, int]) -> Alike:  # noqa: ANN401 -- mlx has no types
    """Of a ``model`` with these caches, and its layers of these ``kinds``.

    All of them where they cannot be told, since they are not in one list, or not with one cache
    each, or where the model does not run without some.
    """
    layers = list(model.layers)
    if len(_places(model)) != 1 or len(layers) != len(examples):
        return every(model, examples)
    kinds = _numbered(
        (kinds_of.get(id(layer)), _kept(it)) for layer, it in zip(layers, examples, strict=True)
    )
    first = _enough(kinds)
    before = [kinds[max(0, at + 1 - TOGETHER) : at + 1] for at in range(len(kinds))]
    ending = 1 + before.index(before[-1], min(first, len(kinds) - 1))
    like = (*(before.index(each) for each in before[:-1]), ending - 1)
    if not _runs(model, first):
        return every(model, examples)
    of_all = min(2 + max(map(kinds.index, set(kinds))), len(kinds))
    of_all = of_all if _runs(model, of_all) else first
    return Alike(first=first, kinds=of_all, ending=ending, like=like, sum=_sum(first, kinds))


def kinds(model: Any) -> dict[int, int]:  # noqa: ANN401
    """Which layers are of one kind but for their caches, by the ``id`` of each."""
    layers = [layer for layer in model.layers if isinstance(layer, Module)]
    return dict(zip(map(id, layers), _numbered(_kinds(layers)), strict=True))


def _numbered(kinds: Iterable[object]) -> list[int]:
    numbers: dict[object, int] = {}
    return [numbers.setdefault(kind, len(numbers)) for kind in kinds]


def every(model: Any, examples: Sequence[Any]) -> Alike:  # noqa: ANN401
    """Each layer is like itself only."""
    count = max(len(model.layers), len(examples))  # a layer may have none, or two
    like = tuple(range(len(examples)))
    return Alike(first=count, kinds=count, ending=count, like=like, sum={})


def _runs(model: Any, count: int) -> bool:  # noqa: ANN401
    """Whether the first ``count`` layers run; some models look for each by its number."""
    made = caches.make_prompt_cache(model)[:count]
    try:
        with only(model, count):
            model(mx.zeros((1, 2), mx.int32), cache=made)
    except Exception:  # noqa: BLE001 -- whatever it raises
        return False
    return True


def at_few(examples: Sequence[Any]) -> bool:
    """Whether a device is at ``TOGETHER`` layers at most, if others than attention take long.

    It may be at more where many that have nothing but keys and values follow each other.
    """
    quick = [all(hasattr(cache, "keys") for cache in leaves([each])) for each in examples]
    windows = [quick[at : at + TOGETHER] for at in range(max(1, len(quick) - TOGETHER + 1))]
    return not any(map(all, windows))


@contextlib.contextmanager
def only(model: Any, count: int) -> Iterator[None]:  # noqa: ANN401 -- mlx has no types
    """Leave the first ``count`` layers of ``model`` in it for a while."""
    layers = list(model.layers)
    places = _places(model) if count < len(layers) else []
    try:
        for module, name in places:
            module[name] = layers[:count]
        yield
    finally:
        for module, name in places:
            module[name] = layers


def _places(model: Any) -> list[tuple[Any, str]]:  # noqa: ANN401
    """The lists of all layers in ``model``."""
    layers = [*map(id, model.layers)]
    return [
        (module, name)
        for module in model.modules()
        for name, value in module.items()
        if isinstance(value, list) and [*map(id, value)] == layers
    ]


def _kept(cache: Any) -> object:  # noqa: ANN401
    """What a layer's cache is."""
    return type(cache), tuple((type(it), getattr(it, "max_size", None)) for it in leaves([cache]))


def _kinds(layers: Sequence[Any]) -> Iterator[object]:
    """What each layer is: its weights by shape, its modules, and what it was told.

    But for a number that is its own.
    """
    told = [_told(layer) for layer in layers]
    own = {
        name
        for name in set().union(*told)
        if all(_is_number(each[name], at) for at, each in enumerate(told) if name in each)
    }
    for layer, values in zip(layers, told, strict=True):
        flat: Any = tree_flatten(layer.parameters())
        parameters = tuple((name, array.shape, str(array.dtype)) for name, array in flat)
        settings = frozenset((name, it) for name, it in values.items() if name not in own)
        yield type(layer), parameters, settings


def _is_number(value: object, at: int) -> bool:
    return type(value) is int and value == at  # False is 0, too


def _told(layer: Any) -> dict[tuple[str, str], object]:  # noqa: ANN401 -- mlx has no types
    """The classes of a layer's modules, and what they keep that is neither array nor module."""
    modules = [(name, it) for name, it in layer.named_modules() if isinstance(it, Module)]
    return {(name, ""): type(it) for name, it in modules} | {
        (name, key): _plain(value) for name, it in modules for key, value in vars(it).items()
    }


def _plain(value: object) -> object:
    """Itself, or the name of a function, or of what else it is."""
    if isinstance(value, bool | int | float | str):
        return value
    return getattr(value, "__qualname__", type(value))


def _enough(kinds: Sequence[int]) -> int:
    """How many of the first have all neighbours among them that any have."""

    def together(count: int) -> set[tuple[int, ...]]:
        firsts = range(max(1, count - TOGETHER + 1))
        return {tuple(kinds[at : min(at + TOGETHER, count)]) for at in firsts}

    every = together(len(kinds))
    return next(count for count in range(1, len(kinds) + 1) if every <= together(count))


def _sum(first: int, kinds: Sequence[int]) -> dict[int, int]:
    """How often what so many layers add up to, to tell what all add to the ``first``."""
    left = kinds[first:]
    if not left:
        return {}
    period = next(p for p in range(1, len(left) + 1) if left[p:] == left[:-p])
    times, rest = divmod(len(left), period)
    made = Counter({first: -1})
    made[first + rest] += 1 - times
    made[first + rest + period] += times
    return {count: often for count, often in made.items() if often}
