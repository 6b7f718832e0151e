"""The hollow checkpoint says what the full one takes."""

import itertools
import json
import subprocess
import sys

import mlx.core as mx
import pytest

from benchmarks import planner_models
from hub import tracing
from hub.making import Directory
from planner.demand import CPU
from planner.hollow import __main__ as hollow
from planner.hollow import program
from planner.program import Behind, Point, Program
from planner.traced import Rank, Traced
from tests.planner import llama

# What `benchmarks/server_replay.py` has traced on top.
MOVES = ("step", "still", "append", "leave", "trim", "move", "go")
CHUNKS = ("prefill", "enter")


def trace(directory, processor="gpu"):
    texts = {"config.json": (directory / "config.json").read_bytes()}
    return tracing.trace(texts, Directory.read(directory).headers(), processor)


def test_a_llama_of_seventy_billion_parameters_takes_what_its_header_says(tmp_path):
    """Weights and KV cache of Llama-70B in bf16 are those that were measured on its real header."""
    traced = trace(llama.write(tmp_path / "70b", **llama.SEVENTY))

    assert 141_107_412_992 == traced.rank(1).weights
    assert 72_656_371_712 == traced.rank(2).weights
    (kind,) = traced.rank(1).kinds
    assert 2_684_354_560 == kind.count * kind.token_bytes * 8192


@pytest.mark.parametrize(
    ("said", "tokens"),
    [
        *((whole, 131072) for whole in (131072, 131072.0)),
        (1e6, 1_000_000),
        *((none, None) for none in (None, 0, -5, True, "131072", {}, [1], 0.5, 1e400, -1e400)),
    ],
)
def test_a_longest_context_is_a_whole_number_or_none(said, tokens):
    """Whatever a configuration says of it."""
    assert tokens == hollow.longest(said)


def test_a_plan_counts_no_less_than_what_comes_and_goes_takes(tmp_path):
    """Of all that a server does for a token, what a plan reckons with takes the most."""
    directory = llama.write(tmp_path / "small")
    mx.set_default_device(mx.cpu)
    with program.cpu():
        traced = Traced.from_json(hollow.trace(directory, "cpu", [1], moves=MOVES + CHUNKS))
    (kind,) = traced.rank(1).kinds
    for batch, tokens in itertools.product((2, 8, 32), (512, 4096, 65536)):
        caches = kind.count * kind.token_bytes * tokens
        most = traced.over("join", CPU.behind, Point(batch, 1, tokens)) + batch * caches
        for name in MOVES:
            # Who leaves is there before, and no longer after it.
            left = batch - (name in {"leave", "trim"})
            assert traced.over(name, CPU.behind, Point(left, 1, tokens)) + left * caches <= most
        chunk = Point(batch, 256, tokens)
        most = max(traced.over(name, CPU.behind, chunk) for name in ("chunk", "admit"))
        for name in CHUNKS:
            assert traced.over(name, CPU.behind, chunk) <= 1.005 * most


@pytest.mark.parametrize(
    ("processor", "ways"),
    [("cpu", [""]), ("gpu", [" fused"]), ("older gpu", [" kernels", " fused"])],
)
def test_a_trace_has_all_that_a_plan_asks_of_its_processor(tmp_path, processor, ways):
    """And nothing else is taken for nothing."""
    traced = trace(llama.write(tmp_path / "small"), processor)

    assert set(traced.programs) == {
        "join", "roll", *(f"{name}{way}" for name in ("chunk", "admit", "stay") for way in ways)
    }  # fmt: skip
    for made in traced.programs.values():
        assert bool(made.tasks) == (processor == "cpu")
        assert bool(made.runs) == (processor != "cpu")
    with pytest.raises(KeyError, match="`step` was not traced"):
        traced.over("step", CPU.behind, Point(1, 1, 512))


def test_each_part_is_done_by_who_begins_it_and_by_nobody_else(tmp_path):
    """Whoever comes later has what is left, and asks in the same order."""
    done = [hollow.Shared(tmp_path) for _ in range(2)]

    assert done[0]("chunks kernels")
    assert not done[1]("chunks kernels")
    assert done[1]("tokens")
    assert [1, 2] == [one.asked for one in done]


def test_planning_loads_neither_mlx_nor_a_hub_client():
    """A deploy with a complete lock starts in the time that it takes to read a file."""
    loaded = "import sys, planner, hub.lock, hub.tracing; print(*sys.modules)"
    modules = subprocess.check_output([sys.executable, "-c", loaded], text=True).split()
    assert not {"mlx", "mlx_lm", "transformers", "huggingface_hub"} & set(modules)


def test_heads_that_do_not_divide_are_refused_at_the_trace(tmp_path):
    """Three KV heads over two GPUs would fail at the first request; the trace says so before."""
    traced = trace(llama.write(tmp_path / "odd", heads=6, kv_heads=3, width=384))

    assert isinstance(traced.rank(1), Rank)
    assert isinstance(traced.rank(2), str)


def test_a_cache_of_a_class_that_is_not_known_is_refused_by_its_name():
    """What such a cache keeps is never guessed."""
    config = planner_models.config("deepseek_v41")
    headers = {"model.safetensors": planner_models.header("deepseek_v41")}

    said = tracing.trace({"config.json": json.dumps(config).encode()}, headers, "gpu")

    assert said == "its cache `LayerCache` is of a class that is not known here"


def test_an_architecture_that_ends_the_process_is_refused_in_its_own_words(tmp_path):
    """mlx-lm's `olmo` prints what it wants and ends the process; that is the refusal's reason."""
    directory = llama.write(tmp_path / "olmo")
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "model_type": "olmo"}))

    said = trace(directory)

    assert isinstance(said, str)
    assert "ai2-olmo" in said


def in_buffers(**behind):
    """The peak of ten operations that take 10 bytes each and let them go, reading 5 elements."""
    one = ({"B": 10}, {"B": 10}, {"": 5}, 1)
    program = Program(runs=(((one,), (0,) * 10),))
    behind = Behind(**{"commits": 2, "kernels": 2, "elements": 1000, **behind})
    return program.peak(behind, Point(1, 1, 1))


def test_a_gpu_gives_back_what_is_done_with_a_command_buffer_at_a_time():
    """Each is closed after more than so many kernels, or once so many elements were read."""
    assert in_buffers() == 60  # two buffers of three kernels
    assert in_buffers(commits=1) == 30  # one of them
    assert in_buffers(elements=10) == 40  # two of two kernels
    assert in_buffers(elements=5) == 20  # each kernel is one
    assert in_buffers(kernels=400) == 100  # none is closed


def test_what_a_device_is_still_at_is_there_too():
    """A CPU gives back four dispatches later, whatever recording they are of."""
    one = ({"B": 10}, {"B": 10}, {}, 1)
    long, short = (Program(tasks=(((one,), (0,) * number),)) for number in (10, 2))
    behind, point = Behind(lag=4), Point(1, 1, 1)

    assert long.peak(behind, point) == 50
    assert short.peak(behind, point) == 20
    assert short.peak(behind, point, long.sized(behind, point)) == 50


def test_operations_outlive_the_lock():
    """Some thousand of a few kinds are kept as one short string."""
    kinds = tuple(({"BS": at}, {"BS": at}, {"": at}, 1) for at in range(1, 40))
    program = Program(tasks=((kinds, (0, 1)),), runs=((kinds, (*range(39),) * 80),))

    kept = json.loads(json.dumps(program.to_json()))

    assert Program.from_json(kept) == program
    assert len(kept["runs"]) < 1000
    with pytest.raises(ValueError, match="packed"):
        Program.from_json({**kept, "runs": "AAAA"})
