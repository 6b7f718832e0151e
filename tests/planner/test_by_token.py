"""A model whose graph has a part for each token: fitted, and no lower for what joins."""

import json

import pytest

from benchmarks import planner_models
from hub import tracing
from planner.demand import CPU, CUDA
from planner.program import Point
from planner.traced import Traced

BATCH, STEP = 4, 512


@pytest.fixture(scope="module")
def hybrid() -> Traced:
    """Three layers of gated delta, a part of the graph for each token, and one of attention."""
    config = planner_models.config("qwen3_next")
    made = planner_models.model("qwen3_next", config)
    headers = {"model.safetensors": planner_models.lay_out(planner_models.tensors(made))}
    traced = tracing.trace({"config.json": json.dumps(config).encode()}, headers, sizes=[1])
    assert isinstance(traced, Traced), traced
    return traced


def test_it_is_fitted_for_both_devices(hybrid: Traced) -> None:
    """A CPU's lag and a GPU's kernels, from recordings of a few tokens."""
    assert set(hybrid.programs["chunk"].live) == {110}
    assert set(hybrid.programs["chunk kernels"].live) == {220, 330, 440, 660, 1100}
    assert hybrid.programs["chunk kernels"].kernels > 100
    assert not hybrid.programs["join"].fitted


@pytest.mark.parametrize("tokens", [2**13, 2**15, 2**17])
@pytest.mark.parametrize(("device", "way"), [(CPU, ""), (CUDA, " kernels")])
def test_what_joins_or_goes_is_copied_there_too(
    hybrid: Traced, device: object, way: str, tokens: int
) -> None:
    """When a chunk begins, the caches of a layer of attention are there twice, at least."""
    point = Point(BATCH, STEP, tokens)
    (kept,) = (kind for kind in hybrid.rank(1).kinds if kind.kind == "kv")
    chunk, admit, stay = (
        hybrid.over(f"{name}{way}", device.behind, point) for name in ("chunk", "admit", "stay")
    )
    copied = BATCH * tokens * kept.token_bytes
    assert admit - chunk >= copied
    assert stay - chunk >= copied
