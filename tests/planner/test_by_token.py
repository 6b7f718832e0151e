"""A model whose graph has a part for each token: fitted, and no lower for what joins."""

import json

import pytest
from mlx.utils import tree_flatten

from benchmarks import planner_models
from hub import tracing
from hub.checkpoint import write_hollow
from planner.demand import CPU, CUDA
from planner.hollow import model, program, recording, work
from planner.hollow.graph import Graph, Made
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
    assert set(hybrid.programs["chunk kernels"].live) == {220, 330, 440, 660, 1212}
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


@pytest.fixture(scope="module")
def server(header: dict[str, object], tmp_path_factory: pytest.TempPathFactory) -> Passes:
    """The same model, to be recorded here."""
    directory = tmp_path_factory.mktemp("hybrid")
    (directory / "config.json").write_text(json.dumps(CONFIG))
    write_hollow(directory / "model.safetensors", header)
    with program.cpu():
        made, _ = model.load(directory)
        return Passes(made, model.examples(made)[0], merged=True)


def ways(server: Passes) -> Ways:
    flat = tree_flatten(server.model.parameters())
    dimensions = {length for _, array in flat for length in array.shape}
    return Ways(dimensions, (), batched=True, states=True)


@pytest.mark.parametrize("lags", [work.ON_CPU, work.ON_GPU])
def test_one_recording_says_what_one_for_each_point_would(
    server: Passes, lags: tuple[int, ...]
) -> None:
    """To the byte, however many sequences, whose caches grow, and tokens in them."""
    recorded: list[Point] = []

    def record(point: Point) -> Graph:
        recorded.append(point)
        return server.uneven(point)

    once, each = ways(server), ways(server)
    each.clear = False
    with program.cpu(), recording.kernels(attention=False):
        said = once.counted(record, lags, 32, FAR)
        assert len(recorded) == 1
        assert said == each.counted(record, lags, 32, FAR)
    assert len(recorded) == 1 + len(said) == 5
    assert once.clear


def test_what_a_second_recording_does_not_confirm_is_recorded_for_each_point(
    server: Passes,
) -> None:
    """Here the second one is of another number of tokens: more operations, other sizes."""

    def record(point: Point) -> Graph:
        second = point.tokens == 4096
        return server.uneven(point._replace(step=33) if second else point)

    doubted, each = ways(server), ways(server)
    each.clear = False
    with program.cpu():
        said = doubted.counted(record, work.ON_CPU, 32, FAR, checked=True)
        assert not doubted.clear
        assert said == each.counted(server.uneven, work.ON_CPU, 32, FAR)
        # Nothing is left of it but the slow way.
        live = doubted.program(server.roll, work.ON_CPU, step=1)["live"]
    assert set(live) == set(work.ON_CPU)


def test_a_graph_without_operations_takes_nothing() -> None:
    """Prompts of a model without attention are never pushed to the right."""
    given = {"x": Made("x", (4,), 2)}
    nothing = Graph((), given, ("x",), frozenset())
    point = Point(2, 1, 64)
    (said,) = work.counted(
        nothing, work.ON_CPU + work.ON_GPU, work.as_recorded(nothing), [point]
    ).values()
    assert set(said.peaks.values()) == {0}
    assert (said.reads, said.kernels) == (0, 0)
