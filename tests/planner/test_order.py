"""The order of operations, what is joined, and where arrays lie: as MLX has them."""

from __future__ import annotations

import mlx.core as mx
import pytest
from mlx import nn

from planner.demand import CPU
from planner.hollow import buffers, graph, order, recording, strides, work
from planner.hollow.operation import Operation, Sort, primitive
from planner.program import Point

ONE = Sort((), 4)


def recorded(function, **arrays):
    mx.set_default_device(mx.cpu)
    made = graph.record(lambda **given: [function(**given)], arrays, lambda _: False)
    return made.ordered()


def test_the_order_goes_back_from_the_results_breadth_first():
    """What is needed last is worked off last, whatever came first in the program."""
    steps = [
        Operation(primitive("early", (ONE,)), (), ("a",)),
        Operation(primitive("late", (ONE,)), (), ("b",)),
        Operation(primitive("one", (ONE,)), ("b",), ("c",)),
        Operation(primitive("end", (ONE,)), ("a", "c"), ("d",)),
        Operation(primitive("unused", (ONE,)), ("a", "d"), ("e",)),
    ]

    names = [step.name for step in order.scheduled(steps, ["d"])]

    assert names == ["late", "one", "early", "end"]


def test_a_graph_wider_than_mlx_allows_is_gone_through_whole():
    """Each operation comes once, and after all that it reads."""
    xs = {f"x{at}": mx.zeros((4,)) for at in range(3 * order.WIDTH)}

    def total(**given):
        return mx.concatenate([mx.exp(x) * 2 for x in given.values()])

    steps = recorded(total, **xs).operations

    seen: set[str] = set()
    made = {name for step in steps for name in step.makes}
    for step in steps:
        assert {name for name in step.reads if name in made} <= seen
        seen |= {*step.makes}
    assert sum(step.name == "Exp" for step in steps) == len(xs)


def test_what_mlx_compiles_is_one_operation():
    """The gate of SwiGLU is one operation to MLX, and three to its export."""
    x = mx.zeros((8, 8))
    apart = recorded(lambda x, y: nn.silu(x) * y, x=x, y=x)

    assert [step.name for step in apart.compiled().operations] == ["Compiled"]
    assert sorted(step.name for step in apart.operations) == ["Multiply", "Multiply", "Sigmoid"]


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.reshape(-1),
        lambda x: x.T.reshape(-1),
        lambda x: x[:, :64].reshape(64, 8, 8),
        lambda x: x[:, :64].reshape(-1),
        lambda x: x.reshape(64, 8, 16).transpose(1, 0, 2).reshape(8, 8, 8, 16),
        lambda x: mx.broadcast_to(x[:, :1], (64, 128)).reshape(-1),
    ],
    ids=["rows", "turned", "split of a part", "part", "split of turned", "spread"],
)
def test_a_reshape_takes_what_mlx_takes_for_it(change):
    """A view takes nothing, a copy its bytes: as MLX counts them."""
    mx.set_default_device(mx.cpu)
    x = mx.zeros((64, 128))
    mx.eval(x)
    mx.synchronize()
    before = mx.get_active_memory()
    y = change(x)
    mx.eval(y)
    mx.synchronize()
    really = mx.get_active_memory() - before

    run = buffers.replay(recorded(change, x=mx.zeros((64, 128))))

    assert really == sum(made.size for step in run.taken for made in step)


@pytest.mark.parametrize(
    ("shape", "lies", "as_it_lies"),
    [
        ((4, 6), (6, 1), True),
        ((4, 6), (1, 4), True),
        ((2, 4, 6), (24, 6, 1), True),
        ((4, 6), (12, 1), False),  # a part of each row
        ((8, 4, 16), (16, 128, 1), False),  # heads before tokens
    ],
)
def test_a_product_copies_what_is_neither_as_it_reads_nor_turned(shape, lies, as_it_lies):
    assert strides.for_matmul(shape, lies) == as_it_lies


def taken(function, **arrays):
    """Bytes that MLX takes for ``function`` while it runs, and those that are said."""
    mx.set_default_device(mx.cpu)
    mx.eval(arrays)
    mx.synchronize()
    mx.clear_cache()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    mx.eval(function(**arrays))
    mx.synchronize()
    run = buffers.replay(recorded(function, **arrays))
    return mx.get_peak_memory() - before, sum(m.size for step in run.taken for m in step)


def test_a_bias_is_added_in_the_product_itself():
    """What is added is copied into the result before the product: nothing else is taken."""
    x, w, bias = mx.ones((512, 64)), mx.ones((64, 256)), mx.ones((256,))
    really, said = taken(lambda x, w, bias: mx.addmm(bias, x, w), x=x, w=w, bias=bias)
    assert said == really == 512 * 256 * 4


@pytest.mark.parametrize(
    ("change", "arrays"),
    [
        (lambda x: mx.exp(x) * 0.5, 1),  # one element for all: lies as the other does
        (lambda x: 0.5 * mx.exp(x), 1),
        (
            lambda x: (mx.exp(x) * 0.5) @ mx.ones((8, 16, 16)),
            3.25,
        ),  # ... so that a product copies it
        (lambda x: mx.exp(x) + mx.sin(x), 3),  # neither in rows nor in columns: nothing taken over
        (lambda x: mx.where(x > 0, mx.exp(x), 0.0), 2.25),  # a choice is made in rows
    ],
    ids=["scaled", "scales", "scaled and multiplied", "two of another order", "choice"],
)
def test_how_an_array_lies_decides_what_takes_it_over(change, arrays):
    """Heads before tokens, as attention has queries: dense, and not as they read."""

    def turned(x):
        return change(x.reshape(64, 8, 16).transpose(1, 0, 2))

    mx.disable_compile()
    try:
        really, said = taken(turned, x=mx.ones((64, 128)))
    finally:
        mx.enable_compile()
    # Beside the arrays there are single elements, and the matrix that the change makes.
    for found in (really, said):
        assert found - arrays * 64 * 128 * 4 in range(2048)


def test_a_product_of_an_array_with_itself_takes_over_nothing():
    """MLX gives a buffer over where it is held once; as both factors it is held twice."""

    def squared(x):
        y = mx.exp(x)
        return y * y

    really, said = taken(squared, x=mx.ones((512, 256)))
    assert said == really == 2 * 512 * 256 * 4


def test_the_same_product_twice_is_recorded_twice():
    """An export would make one of them; an evaluation without a compiler does not."""

    def twice(x, y):
        return mx.exp(x * y) + mx.sin(x * y)

    with recording.apart():
        steps = recorded(twice, x=mx.ones((8, 8)), y=mx.ones((8, 8))).operations
    assert sum(step.name == "Multiply" for step in steps) == 2


def test_a_command_buffer_is_closed_by_elements_whatever_they_take():
    """MLX calls 2**20 elements a megabyte: two bytes each or four, it is as far ahead."""

    def elements(dtype):
        steps = recorded(lambda x: mx.exp(mx.sin(x)), x=mx.ones((64, 32), dtype))
        ((kinds, order),) = work.program(steps, work.as_recorded(steps), ["gpu"])["runs"]
        return [kinds[at][2] for at in order]

    assert elements(mx.bfloat16) == elements(mx.float32) == [{"": 64 * 32}] * 2


def test_the_peak_of_a_layer_is_no_less_than_mlx_has():
    """An evaluation's own peak without a compiler, as every CPU host has it."""
    mx.set_default_device(mx.cpu)
    mx.disable_compile()
    try:
        _peak_of_layers()
    finally:
        mx.enable_compile()


def _peak_of_layers():
    w = mx.random.normal((256, 256))
    x = mx.random.normal((512, 256))
    mx.eval(w, x)

    def layers(w, x):
        for _ in range(3):
            x = x + nn.silu(x @ w) * mx.softmax(x @ w.T, axis=-1)
        return x

    mx.synchronize()
    mx.clear_cache()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    y = layers(w, x)
    mx.eval(y)
    mx.synchronize()
    really = mx.get_peak_memory() - mx.get_active_memory()
    assert mx.get_active_memory() - before == y.nbytes

    run = buffers.replay(recorded(layers, w=w, x=x).ordered())
    assert really <= work.peak(run, CPU.behind.lag)


def test_constants_are_compared_where_they_are_read():
    """An export makes one of those with one value, and has them in another order each time."""

    def clipped(least):
        return recorded(
            lambda x: mx.minimum(mx.exp(x), 7.0).sum() + mx.maximum(mx.sin(x[0]), least).sum(),
            x=mx.ones((64, 128), mx.bfloat16),
        )

    one, two = clipped(7.0), clipped(-7.0)
    assert len(two.constants) > len(one.constants)
    rows = work.as_recorded(one)
    for other in (one, two):
        work.agree(one, rows, other, Point(1, 1, 1))
