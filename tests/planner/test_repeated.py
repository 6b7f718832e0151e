"""A layer that is recorded once, and put wherever one like it comes: as if all were recorded."""

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import pytest
from mlx import nn
from mlx_lm.models import cache as caches

from benchmarks import planner_models
from planner.hollow import graph, model, program, recording, repeated
from planner.hollow.passes import Passes
from planner.program import Point

LAST = ("uneven", "stay", "join")  # what ends in a pass of the model, with prompts and without
ALONE = ("prefill", "step")


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Let an export make one operation of those that are alike, but for what it has no name for."""
    with recording.instead({(mx, "contiguous"): lambda x, *_, **__: mx.abs(x)}):
        yield


def said(recorded: graph.Graph) -> list[int]:
    """Of each result, all that it is made of, down to arguments and constants."""
    told = {name: hash(argument) for argument, name in recorded.arguments.items()}
    for name, array in recorded.constants.items():
        told[name] = hash((str(array.dtype), repr(array.tolist())))
    for step in recorded.operations:
        reads = tuple(told[name] for name in step.reads)
        told |= {name: hash((step.of, reads, at)) for at, name in enumerate(step.makes)}
    return [told[name] for name in recorded.results]


def recordings(server: Passes, methods: tuple[str, ...]) -> list[graph.Graph]:
    """With attention in its parts and as one kernel."""
    made = []
    for method in methods:
        step = 1 if method in {"join", "step"} else 12
        point = Point(1 if methods is ALONE else 3, step, 700)
        made.append(getattr(server, method)(point))
        with recording.kernels(attention=True):
            made.append(getattr(server, method)(point))
    return made


def whole(name: str) -> tuple[Passes, tuple[str, ...], list[graph.Graph]]:
    """A model, what is recorded of it, and that: of every layer."""
    made = planner_models.model(name, planner_models.config(name))
    examples, _ = model.examples(made)
    methods = ALONE if model.why_alone(made) else LAST
    server = Passes(made, examples, merged=model.mergeable(made), every=repeated.Layers({}))
    return server, methods, recordings(server, methods)


def test_layers_that_are_put_together_are_those_of_every_architecture(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each result is made of the same, but that what two layers both do is done in each."""
    monkeypatch.setattr(recording, "apart", together)
    compared, differ, more = [], [], 0
    with program.cpu():
        for name in planner_models.names():
            try:
                server, methods, every = whole(name)
            except (Exception, SystemExit):  # noqa: BLE001 -- it is not traced at all
                continue
            once = recordings(Passes(server.model, server.caches, merged=server.merged), methods)
            for one, other in zip(once, every, strict=True):
                more += len(one.operations) > len(other.operations)
                if said(one) != said(other):
                    differ.append(name)
            compared.append(name)
    assert differ == []
    assert len(compared) >= 118
    assert more > len(compared)


class Block(nn.Module):
    """A layer with a state, which it may hand out as it likes."""

    def __init__(self, hand_out: Any = None) -> None:
        super().__init__()
        self.weight = mx.ones((8,))
        self.hand_out = hand_out

    def __call__(self, x: mx.array, cache: Any) -> Any:
        cache.lengths -= 1
        cache[0] = cache[0] + x
        made = mx.exp(x) * self.weight
        return self.hand_out(made) if self.hand_out else made


def recorded(layers: list[Any], kinds: dict[int, int]) -> tuple[graph.Graph, int, list[Any]]:
    """The graph of one layer after the other, how often one was recorded, and their caches."""
    held = [caches.ArraysCache(1) for _ in layers]
    for at, cache in enumerate(held):
        cache[0], cache.lengths = mx.zeros((8,)), mx.array([at, at])
    calls = []
    record = graph.record

    def run(x: mx.array) -> list[mx.array]:
        for layer, cache in zip(layers, held, strict=True):
            x = layer(x, cache)
            x = x if isinstance(x, mx.array) else x.pop()
        return [x, *(array for cache in held for array in (cache[0], cache.lengths))]

    def counted(*given: Any) -> graph.Graph:
        calls.append(given)
        return record(*given)

    with (
        recording.instead({(graph, "record"): counted}),
        repeated.Layers(kinds).once(layers) as pieces,
    ):
        made = pieces.into(record(run, {"x": mx.zeros((8,))}, lambda _: False))
    return made, len(calls), held


def names(made: graph.Graph) -> Counter[str]:
    return Counter(step.name for step in made.operations)


def test_a_layer_is_recorded_once_and_does_to_each_cache_what_it_does() -> None:
    """What is changed in its place, too; and what it was given is its own again."""
    mx.set_default_device(mx.cpu)
    layers = [Block() for _ in range(3)]
    weights = [layer.weight for layer in layers]
    alike, once, held = recorded(layers, {id(layer): 0 for layer in layers})
    apart, never, _ = recorded(layers, {})
    assert (once, never) == (1, 0)
    assert said(alike) == said(apart)
    assert names(alike)["Subtract"] == len(layers)
    assert len({id(cache[0]) for cache in held}) == len(layers)
    for layer, weight in zip(layers, weights, strict=True):
        assert layer.weight is weight


@pytest.mark.parametrize("other", ["kind", "shape", "type", "number"])
def test_a_layer_that_is_another_or_is_called_with_another_is_recorded(other: str) -> None:
    """By its kind, or by what is in its cache."""
    mx.set_default_device(mx.cpu)
    layers = [Block(), Block()]
    kinds = {id(layer): at if other == "kind" else 0 for at, layer in enumerate(layers)}
    make = caches.ArraysCache.__init__
    first: dict[str, Any] = {"number": 1}
    second = {"number": 2, "shape": mx.zeros((9,)), "type": mx.zeros((8,), mx.int32)}
    held = iter([first.get(other, mx.zeros((8,))), second.get(other, mx.zeros((8,)))])

    def init(self: Any, size: int) -> None:
        make(self, size)
        self.more = next(held)

    with recording.instead({(caches.ArraysCache, "__init__"): init}):
        _, often, _ = recorded(layers, kinds)
    assert often == 2


@pytest.mark.parametrize(
    "hand_out", [lambda made: {made}, lambda made: [caches.KVCache(), made]], ids=["set", "cache"]
)
def test_a_layer_that_hands_out_something_else_is_recorded_as_it_is(hand_out: Any) -> None:
    """A cache that it was not given, for one; whatever was tried with it is undone."""
    mx.set_default_device(mx.cpu)
    layers = [Block(hand_out) for _ in range(2)]
    tried, _, _ = recorded(layers, {id(layer): 0 for layer in layers})
    as_it_is, _, _ = recorded(layers, {})
    assert names(tried) == names(as_it_is)


@pytest.mark.parametrize("inside", [lambda seen: seen, lambda seen: (seen,)], ids=["", "tuple"])
def test_a_layer_that_is_given_a_list_may_add_to_it(inside: Any) -> None:
    """It is recorded as it is."""
    mx.set_default_device(mx.cpu)

    class Adding(nn.Module):
        def __call__(self, x: mx.array, seen: Any) -> mx.array:
            (seen[0] if isinstance(seen, tuple) else seen).append(mx.exp(x))
            return x + 1

    layers = [Adding(), Adding()]

    def run(x: mx.array) -> list[mx.array]:
        seen: list[mx.array] = []
        for layer in layers:
            x = layer(x, inside(seen))
        return [x, *seen]

    with repeated.Layers({id(layer): 0 for layer in layers}).once(layers) as pieces:
        made = pieces.into(graph.record(run, {"x": mx.zeros((8,))}, lambda _: False))
    assert names(made) == {"Exp": 2, "Add": 2, "Broadcast": 1}


def test_a_layer_that_fails_fails() -> None:
    """And is as it was."""
    mx.set_default_device(mx.cpu)

    def fail(_: mx.array) -> None:
        raise ZeroDivisionError

    layer = Block(fail)
    call = Block.__call__
    with pytest.raises(ZeroDivisionError):
        recorded([layer], {id(layer): 0})
    assert Block.__call__ is call
    assert layer.weight.tolist() == [1.0] * 8
