"""A model whose graph has a part for each token: fitted, and no lower for what joins."""

import json
from pathlib import Path

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from benchmarks import planner_models
from hub import tracing
from hub.checkpoint import write_hollow
from planner.demand import CPU, CUDA
from planner.hollow import model, program, recording, work
from planner.hollow.graph import Graph
from planner.hollow.passes import Passes
from planner.hollow.ways import FAR, Ways
from planner.program import Point
from planner.traced import Traced

BATCH, STEP = 4, 512


CONFIG = planner_models.config("qwen3_next")


@pytest.fixture(scope="module")
def header() -> dict[str, object]:
    """Three layers of gated delta, a part of the graph for each token, and one of attention."""
    made = planner_models.model("qwen3_next", CONFIG)
    return planner_models.lay_out(planner_models.tensors(made))


@pytest.fixture(scope="module")
def hybrid(header: dict[str, object]) -> Traced:
    """What is traced of it."""
    texts = {"config.json": json.dumps(CONFIG).encode()}
    traced = tracing.trace(texts, {"model.safetensors": header}, sizes=[1])
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


@pytest.mark.parametrize("lags", [work.ON_CPU, work.ON_GPU])
def test_one_recording_says_what_one_for_each_point_would(
    header: dict[str, object], lags: tuple[int, ...], tmp_path: Path
) -> None:
    """To the byte, however many sequences and tokens in their caches."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    write_hollow(tmp_path / "model.safetensors", header)
    mx.set_default_device(mx.cpu)
    with program.cpu(), recording.kernels(attention=False):
        made, _ = model.load(tmp_path)
        examples, _ = model.examples(made)
        server = Passes(made, examples, merged=True)
        recorded: list[Point] = []

        def record(point: Point) -> Graph:
            recorded.append(point)
            return server.uneven(point)

        dimensions = {length for _, a in tree_flatten(made.parameters()) for length in a.shape}
        once, each = (
            Ways(dimensions, (), batched=True, states=True, checked=True) for _ in range(2)
        )
        each.clear = False
        said = once.counted(record, lags, 32, FAR)
        assert len(recorded) == 1
        assert said == each.counted(record, lags, 32, FAR)
        assert len(recorded) == 1 + len(said) == 5
        assert once.clear
