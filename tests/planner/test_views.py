"""What caches keep alive by views, and what MLX says of it."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest
from mlx import nn
from mlx_lm.models import cache as caches

from planner.hollow import model as hollow
from planner.hollow import views
from planner.hollow.passes import Passes

WIDTH = 64


def server(model: Any) -> Passes:
    """The passes of one."""
    return Passes(model, hollow.examples(model)[0], merged=hollow.mergeable(model))


class OneProduct(nn.Module):
    """A layer that takes its keys and values from one product with the queries."""

    def __init__(self, kind: type) -> None:
        super().__init__()
        self.kind = kind
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)

    @property
    def layers(self) -> list[nn.Module]:
        return [self.qkv]

    def make_cache(self) -> list[Any]:
        return [self.kind(max_size=512) if self.kind is caches.RotatingKVCache else self.kind()]

    def __call__(self, tokens: mx.array, cache: list[Any]) -> mx.array:
        x = mx.ones((*tokens.shape, WIDTH)) * tokens[..., None]
        _, keys, values = mx.split(self.qkv(x), 3, axis=-1)
        cache[0].update_and_fetch(keys[:, None], values[:, None])
        return x


@pytest.mark.parametrize("kind", [caches.KVCache, caches.RotatingKVCache])
def test_a_cache_filled_to_the_brim_keeps_the_whole_product(kind: type) -> None:
    """256 tokens at once are kept as the views they are, with the queries that came with them."""
    mx.set_default_device(mx.cpu)
    model = OneProduct(kind)
    (beyond,) = views.beyond(server(model))
    mx.eval(model.parameters())
    mx.synchronize()
    made = caches.make_prompt_cache(model)
    before = mx.get_active_memory()

    mx.eval(model(mx.ones((1, 256), mx.int32), made), [cache.state for cache in made])
    mx.synchronize()

    held = sum(array.nbytes for array in hollow.arrays(made[0]))
    really = mx.get_active_memory() - before
    assert really == held + 256 * beyond["viewed_bytes"]


def test_a_cache_of_copies_keeps_nothing_more() -> None:
    """Where keys and values come from products of their own, nothing else hangs on them."""

    class TwoProducts(OneProduct):
        def __call__(self, tokens: mx.array, cache: list[Any]) -> mx.array:
            x = mx.ones((*tokens.shape, WIDTH)) * tokens[..., None]
            cache[0].update_and_fetch(x[:, None] * 2, x[:, None] + 1)
            return x

    mx.set_default_device(mx.cpu)
    model = TwoProducts(caches.KVCache)
    assert views.beyond(server(model)) == [{}]


class Masked(nn.Module):
    """A layer with a state of which padding is masked after the scores have been made of it."""

    @property
    def layers(self) -> list[int]:
        return [0]

    def make_cache(self) -> list[Any]:
        return [caches.ArraysCache(1)]

    def __call__(self, tokens: mx.array, cache: list[Any]) -> mx.array:
        mask = cache[0].make_mask(tokens.shape[1])
        old = cache[0][0]
        if old is None:
            old = mx.zeros((tokens.shape[0], WIDTH, WIDTH))
        new = mx.exp(old) + tokens.sum(axis=1)[:, None, None]
        cache[0][0] = new if mask is None else mx.where(mask[:, -1:, None], new, old)
        cache[0].advance(tokens.shape[1])
        return mx.broadcast_to(new.sum(axis=-1)[:, None], (*tokens.shape, WIDTH))


def test_a_state_that_no_score_needs_is_there_with_the_one_before_it() -> None:
    """A step of generation evaluates its scores; the masked state is left to the next step."""
    mx.set_default_device(mx.cpu)
    model = Masked()
    (beyond,) = views.beyond(server(model))
    made = [cache.merge([cache]) for cache in caches.make_prompt_cache(model)]
    mx.synchronize()
    mx.clear_cache()
    before = mx.get_active_memory()
    for _ in range(3):
        mx.eval(model(mx.ones((1, 1), mx.int32), made))
    mx.synchronize()
    really = mx.get_active_memory() - before

    state = WIDTH * WIDTH * 4
    assert beyond["step_bytes"] >= state
    assert abs(really - (state + beyond["step_bytes"])) < 64  # bytes of paddings
