"""Models whose graph depends on the tokens of a step: each is recorded, or some layers at each."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from benchmarks import planner_models
from hub import tracing
from planner.demand import CPU, CUDA, PREFILL_STEPS, Device, ladder
from planner.hollow import layers, model, passes, program, recording, views, work
from planner.hollow.graph import Graph
from planner.hollow.model import Refused
from planner.hollow.operation import Made, Sort
from planner.hollow.passes import Passes
from planner.hollow.ways import BY_TOKEN, FEW, RESTS, Ways
from planner.program import Point, Program
from planner.traced import PROCESSORS, Processor, Traced, joined

BATCH, STEP = 4, 256
DEEP = 8
# Half of the layers are gated delta, with a part of the graph for each token.
CONFIG = {**planner_models.config("qwen3_next"), "num_hidden_layers": DEEP}
HYBRID = planner_models.config("olmo_hybrid")
LINEAR, FULL = "linear_attention", "full_attention"
DEVICES = pytest.mark.parametrize("device", [CPU, CUDA], ids=lambda device: device.name)


def traced(config: dict[str, Any], processor: Processor) -> Traced:
    """What a plan has of it."""
    texts = {"config.json": json.dumps(config).encode()}
    header = planner_models.header(config["model_type"], config)
    said = tracing.trace(texts, {"model.safetensors": header}, processor, sizes=[1])
    assert isinstance(said, Traced), said
    return said


@contextlib.contextmanager
def served(directory: Path, config: dict[str, Any]) -> Iterator[Passes]:
    """A model as the tracing program has it."""
    planner_models.write(directory, config["model_type"], config)
    with program.cpu():
        made, _ = model.load(directory)
        yield Passes(made, model.examples(made)[0], merged=model.mergeable(made))


@pytest.fixture(scope="module")
def hybrid() -> dict[Processor, Traced]:
    """What is traced of all layers."""
    return {processor: traced(CONFIG, processor) for processor in PROCESSORS}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Passes]:
    """The same, to be recorded here."""
    with served(tmp_path, CONFIG) as passes:
        yield passes


def on(device: Device) -> Processor:
    return "gpu" if device.behind.commits else "cpu"


def way(device: Device) -> str:
    return " kernels" if on(device) == "gpu" else ""


def whole(server: Passes, name: str, device: Device, point: Point) -> int:
    """The peak of all layers, recorded at that very point."""
    gpu = on(device) == "gpu"
    with recording.kernels(attention=False) if gpu else contextlib.nullcontext():
        graph = getattr(server, "uneven" if name == "chunk" else name)(point)
    made = work.program(graph, work.as_recorded(graph), on(device))
    return Program(**made).peak(device.behind, point)


def test_a_step_is_recorded_as_long_as_a_plan_sets_it(hybrid: dict[Processor, Traced]) -> None:
    """A chunk of some layers at each; of all that is more than a chunk, at a few tokens."""
    for device in (CPU, CUDA):
        known = hybrid[on(device)]
        assert set(known.programs[f"chunk{way(device)}"].steps) == {*RESTS, *BY_TOKEN}
        assert set(known.programs[f"admit{way(device)}"].steps) == {min(RESTS)}
        assert known.programs["join"].longest is None
        assert {rung.prefill_step for rung in ladder(8, known)} == set(BY_TOKEN)
    with pytest.raises(KeyError, match="a step of 1024 tokens was not recorded"):
        hybrid["cpu"].over("chunk", CPU.behind, Point(1, 1024, 4096))


@DEVICES
@pytest.mark.parametrize("tokens", [STEP, 520, 2**12, 2**15])
def test_some_layers_tell_what_all_of_them_take(
    hybrid: dict[Processor, Traced], server: Passes, device: Device, tokens: int
) -> None:
    """Uneven prompts, of which each layer leaves something to the end of the pass."""
    point = Point(BATCH, STEP, tokens)
    really = whole(server, "chunk", device, point)
    assert (
        really
        <= hybrid[on(device)].over(f"chunk{way(device)}", device.behind, point)
        <= 1.05 * really
    )


@DEVICES
@pytest.mark.parametrize("name", ["admit", "stay"])
def test_what_is_known_of_a_few_tokens_tells_what_many_take(
    hybrid: dict[Processor, Traced], server: Passes, device: Device, name: str
) -> None:
    """What is copied on the way to a chunk, and the chunk, however they overlap."""
    for tokens in (520, 2**13):
        point = Point(BATCH, STEP, tokens)
        really = whole(server, name, device, point)
        said = hybrid[on(device)].over(f"{name}{way(device)}", device.behind, point)
        assert really <= said <= 1.5 * really


@pytest.mark.parametrize("layer_types", [[FULL, *[LINEAR] * 7], [LINEAR, *[FULL] * 9]])
@DEVICES
def test_wherever_a_model_has_its_attention(
    tmp_path: Path, device: Device, layer_types: list[str]
) -> None:
    """What comes first hides nothing of what comes last, and quick layers are not left out."""
    config = {**HYBRID, "num_hidden_layers": len(layer_types), "layer_types": layer_types}
    with served(tmp_path, config) as server:
        prompts, _ = program.parts(server, on(device), batched=True, ends=[way(device)])
        name = f"chunk{way(device)}"
        recorded = [{name: work.packed(make()[name])} for make in prompts.values()]
        chunk = Program.from_json(reduce(joined, recorded)[name])
        point = Point(BATCH, STEP, 520)
        really = whole(server, "chunk", device, point)
        assert really <= chunk.peak(device.behind, point) <= 1.1 * really


def test_a_shorter_step_counts_as_the_next_longer_one() -> None:
    """No plan sets one, but for a context that is shorter; as much is cached then, at least."""

    def taking(tokens: int) -> Program:
        return Program(tasks=(((({"T": tokens}, {"T": tokens}, {}, 1),), (0,)),))

    recorded = Program(steps={2: taking(1), 256: taking(10), 512: taking(20)})
    assert recorded.peak(CPU.behind, Point(1, 100, 1000)) == 10 * 1000
    assert recorded.peak(CPU.behind, Point(1, 100, 100)) == 10 * 256
    assert recorded.peak(CPU.behind, Point(1, 257, 1000)) == 20 * 1000
    # A device is behind by more operations of a short step, and may hold more.
    recorded = Program(steps={2: taking(30), 256: taking(10)})
    assert recorded.peak(CPU.behind, Point(1, 256, 1000)) == 30 * 1000


@DEVICES
@pytest.mark.parametrize("tokens", [2**13, 2**15, 2**17])
def test_what_joins_or_goes_is_copied_there_too(
    hybrid: dict[Processor, Traced], device: Device, tokens: int
) -> None:
    """When a chunk begins, the caches of a layer of attention are there twice, at least."""
    point = Point(BATCH, STEP, tokens)
    (kept,) = (kind for kind in hybrid[on(device)].rank(1).kinds if kind.kind == "kv")
    chunk, admit, stay = (
        hybrid[on(device)].over(f"{name}{way(device)}", device.behind, point)
        for name in ("chunk", "admit", "stay")
    )
    copied = BATCH * tokens * kept.token_bytes
    assert admit - chunk >= copied
    assert stay - chunk >= copied


@DEVICES
def test_a_part_for_so_many_tokens_is_recorded_at_every_step(
    tmp_path: Path, device: Device
) -> None:
    """Mamba 2 goes by chunks of 64 here: all layers, whatever the sequences and the context."""
    config = planner_models.config("falcon_h1")
    known = traced(config, on(device))
    assert known.longest_step == max(PREFILL_STEPS)
    with served(tmp_path, config) as server:
        for step in (256, 1024):
            point = Point(BATCH, step, 8192)
            really = whole(server, "chunk", device, point)
            assert known.over(f"chunk{way(device)}", device.behind, point) == really


def test_what_depends_on_the_context_in_steps_is_no_less(tmp_path: Path) -> None:
    """phi3small's masks are of blocks of 64 tokens, of as many as there could be."""
    config = planner_models.config("phi3small")
    known = traced(config, "cpu")
    with served(tmp_path, config) as server:
        point = Point(1, 512, 4096)
        graph = server.prefill(point)
        made = work.program(graph, work.as_recorded(graph), "cpu")
        really = Program(**made).peak(CPU.behind, point)
    assert really <= known.over("chunk", CPU.behind, point)


def ways(*, batched: bool = True) -> Ways:
    return Ways((), (), batched=batched, states=True)


@pytest.mark.parametrize("other", [{"step": 33}, {"batch": 72}])
def test_what_a_second_recording_does_not_confirm_is_refused(
    server: Passes, other: dict[str, int]
) -> None:
    """Here the second one is of another number of tokens, or of more sequences than it is said."""

    def record(point: Point) -> Graph:
        return server.uneven(point._replace(**other) if point.tokens == 4096 else point)

    with pytest.raises(Refused, match="cannot be told from one context to another"):
        ways().for_each(record, "cpu", (32,), check=record)


@pytest.mark.parametrize("name", ["qwen3_next", "gemma3_text", "mamba2", "llama"])
@pytest.mark.parametrize("method", ["admit", "stay"])
@pytest.mark.parametrize("known", [True, False])
def test_what_is_done_before_a_chunk_is_put_before_one_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, method: str, *, known: bool
) -> None:
    """It is what all of it recorded at once is; as it is recorded where caches are others then."""
    point = Point(BATCH, STEP, 2**12)
    with served(tmp_path, planner_models.config(name)) as server:
        really = getattr(server, method)(point)
        whole = len(really.operations)
        if not known:
            monkeypatch.setattr(passes, "state", lambda _: object())
        recorded: list[int] = []
        record = Passes._record  # noqa: SLF001 -- what all methods end in

        def counted(*given: Any, **more: Any) -> Graph:
            made = record(*given, **more)
            recorded.append(len(made.operations))
            return made

        monkeypatch.setattr(Passes, "_record", counted)
        with server.keeping():
            chunk = server.uneven(point)
            told = getattr(server, method)(point)
        assert recorded[0] == len(chunk.operations)
        assert sum(recorded[:2]) == whole
        assert recorded[2:] == ([] if known else [whole])
        assert server.uneven(point) is not chunk  # kept no longer
    for processor in ("cpu", "gpu"):
        one, other = (work.program(it, work.as_recorded(it), processor) for it in (told, really))
        assert one == other


def test_an_array_that_is_two_arguments_has_no_two_names() -> None:
    """Then nothing can be put before."""
    x = Made("x", Sort((4,), 2))
    first = Graph((), {"x": x}, ("x", "x"), frozenset())
    chunk = Graph((), {"a": x, "b": x}, (), frozenset(), {"c.0": "a", "c.1": "b"})
    assert chunk.after(first, ("c.0", "c.1")) is None
    assert chunk.after(replace(first, results=("x",)), ("c.0",)) is not None


def test_a_graph_without_operations_takes_nothing() -> None:
    """Prompts of a model without attention are never pushed to the right."""
    given = {"x": Made("x", Sort((4,), 2))}
    nothing = Graph((), given, ("x",), frozenset())
    for device in (CPU, CUDA):
        made = work.program(nothing, work.as_recorded(nothing), on(device))
        assert Program(**made).peak(device.behind, Point(2, 1, 64)) == 0


def test_as_many_layers_stay_as_can_follow_each_other(server: Passes) -> None:
    """And all of them are there again, whatever happens."""
    before = list(server.model.layers)

    def fail() -> None:
        with server.fewer() as some:
            assert len(some.caches) == len(server.model.layers) == layers.TOGETHER + 1
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [*map(id, server.model.layers)] == [*map(id, before)]


def test_layers_that_are_not_in_one_list_all_stay(server: Passes) -> None:
    """Or whose caches are not one for each."""
    assert layers.alike(server.model, server.caches[:-1], server.every.kinds).first == DEEP
    server.model["twice"] = list(server.model.layers)
    assert layers.alike(server.model, server.caches, server.every.kinds).first == DEEP


@pytest.mark.parametrize("name", ["iquestloopcoder", "nemotron_h"])
def test_layers_that_have_two_caches_or_none_all_stay(tmp_path: Path, name: str) -> None:
    """Each of the caches is told of."""
    with served(tmp_path, planner_models.config(name)) as server:
        assert len(server.model.layers) != len(server.caches)
        assert layers.alike(server.model, server.caches, server.every.kinds).first >= len(
            server.model.layers
        )
        assert len(views.beyond(server)) == len(server.caches)


def test_layers_are_of_as_many_kinds_as_they_do_different_things(tmp_path: Path) -> None:
    """Whatever tells them apart: their weights, caches, modules or settings; not their numbers.

    And one more, without which nobody would need what the last one makes.
    """

    def kinds(name: str, **more: Any) -> int:
        config = planner_models.config(name) | more
        with served(tmp_path, config) as server:
            return layers.alike(server.model, server.caches, server.every.kinds).kinds

    assert kinds("llama") == 2
    assert kinds("gemma3_text", sliding_window_pattern=4) == 4
    # Of `rope` there is a module in its place that does nothing.
    assert kinds("smollm3", no_rope_layers=[1, 1, 0, 1]) == 4
    assert kinds("smollm3", no_rope_layers=[1, 1, 1, 1]) == 2
    assert kinds("smollm3", no_rope_layers=[0, 0, 0, 0]) == 2
    # What is 0 in the first layer and 1 in the second is no number of theirs if it is a bool; and
    # as few do not run where a model looks for the cache of its second kind by number.
    assert kinds("baichuan_m1", num_hidden_layers=2, sliding_window_layers=[1]) == 2
    assert kinds("baichuan_m1", num_hidden_layers=8, sliding_window_layers=[3, 1, 5, 7]) > 3


@pytest.mark.parametrize("name", ["admit", "join"])
def test_what_only_a_later_layer_does_is_confirmed_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Here the fourth, which is the first of its kind, takes more of shorter contexts."""
    config = planner_models.config("gemma3_text") | {"sliding_window_pattern": 4}
    with served(tmp_path, {**config, "num_hidden_layers": 8}) as server:
        block = type(server.model.layers[3])
        really = block.__call__

        def shorter(self: Any, x: mx.array, mask: Any = None, cache: Any = None) -> mx.array:
            made = really(self, x, mask, cache)
            if self.self_attn.is_sliding or cache is None:
                return made
            many = mx.broadcast_to(made.reshape(-1)[:1], (1 + 10**6 // (1 + cache.size()),))
            return made + mx.exp(many).sum()

        monkeypatch.setattr(block, "__call__", shorter)
        prompts, tokens = program.parts(server, "cpu", batched=True, ends=[""])
        part = prompts["chunks"] if name == "admit" else tokens[name]
        with pytest.raises(Refused, match="cannot be told from one context to another"):
            part()


def test_layers_that_a_model_looks_for_by_number_all_stay(
    server: Passes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not run without them."""

    def by_number(self: Any, inputs: Any, cache: Any) -> Any:
        return self.layers[DEEP - 1](self.embed_tokens(inputs), cache=cache[0])

    monkeypatch.setattr(type(server.model.model), "__call__", by_number)
    assert layers.alike(server.model, server.caches, server.every.kinds).first == DEEP


@pytest.mark.parametrize(
    ("kinds", "first", "ending", "told"),
    [
        ([FULL] * 9, 5, 6, {5: -4, 6: 4}),
        ([LINEAR, FULL] * 8, 6, 8, {6: -5, 8: 5}),
        ([LINEAR, LINEAR, FULL] * 6, 7, 9, {7: -1, 9: -2, 12: 3}),
        ([*[LINEAR] * 8, FULL], 9, 9, {}),
    ],
)
def test_layers_are_told_by_those_before_them(
    tmp_path: Path, kinds: list[str], first: int, ending: int, told: dict[int, int]
) -> None:
    """As many as have all neighbours, and the last by one that is the last."""
    config = {**HYBRID, "num_hidden_layers": len(kinds), "layer_types": kinds}
    with served(tmp_path, config) as server:
        alike = layers.alike(server.model, server.caches, server.every.kinds)
    assert (alike.first, alike.ending, alike.sum) == (first, ending, told)
    before = [kinds[max(0, at + 1 - layers.TOGETHER) : at + 1] for at in range(len(kinds))]
    assert [before[like] for like in alike.like] == before
    assert alike.like[-1] == ending - 1 > max(alike.like[:-1])
    # Whatever the layers of a kind add up to.
    adds = {LINEAR: 3, FULL: 10}
    summed = sum(often * sum(adds[it] for it in kinds[:count]) for count, often in told.items())
    assert summed == sum(adds[it] for it in kinds[first:])


@pytest.mark.parametrize("count", [13, 14])
def test_some_layers_tell_what_all_of_them_leave(tmp_path: Path, count: int) -> None:
    """To the end of a pass, for each token."""
    with served(tmp_path, {**CONFIG, "num_hidden_layers": count}) as server:
        peaks = []
        for tokens in (FEW, FEW + 1):
            with server.fewer() as some:
                few = work.alone(some.uneven(Point(2, tokens, tokens)))
            peaks.append(work.alone(server.uneven(Point(2, tokens, tokens))) - few)
        assert max(server.alike.sum) < count
        assert 0 < ways().left(server, "uneven") == (peaks[1] - peaks[0]) / 2


@pytest.mark.parametrize("count", [13, 14])
@pytest.mark.parametrize("name", ["qwen3_next", "kimi_linear"])
def test_some_layers_tell_what_all_caches_keep_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, count: int
) -> None:
    """Whether the last layer is one with a state or not."""
    config = {**planner_models.config(name), "num_hidden_layers": count}
    if name == "kimi_linear":
        kinds = {"kda_layers": [*range(1, count + 1, 2)], "full_attn_layers": [*range(2, count, 2)]}
        config["linear_attn_config"] |= kinds
    with served(tmp_path, config) as server:
        assert layers.alike(server.model, server.caches, server.every.kinds).ending < count
        found = views.beyond(server)
        every = layers.every(server.model, server.caches)
        monkeypatch.setitem(vars(server), "told", every)
        assert found == views.beyond(server)
