"""What a plan reserves, beside the server's batches replayed: whatever comes when, never less."""

import random
from pathlib import Path

import mlx.core as mx
import pytest

from benchmarks import planner_models
from benchmarks.server_replay import MOVES, replay
from planner.demand import CPU, Settings, need
from planner.hollow import program
from planner.hollow.__main__ import trace
from planner.traced import Traced
from tests.planner import llama


def llama_of_many_layers(directory: Path) -> None:
    llama.write(directory, layers=24)


def gemma_with_a_wide_window(directory: Path) -> None:
    """Wider than any context here, so that nothing of a sequence is ever cut off."""
    config = planner_models.config("gemma3_text") | {
        "num_hidden_layers": 24,
        "sliding_window": 2048,
    }
    planner_models.write(directory, "gemma3_text", config)


@pytest.fixture(scope="module", params=[llama_of_many_layers, gemma_with_a_wide_window])
def deep(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Traced:
    """So many layers that its caches outweigh what one of them takes for a moment."""
    directory = tmp_path_factory.mktemp("deep")
    mx.set_default_device(mx.cpu)
    request.param(directory)
    with program.cpu():
        return Traced.from_json(trace(directory, "cpu", [1], moves=MOVES))


def most(traced: Traced, settings: Settings, requests: list[tuple[int, int, int]]) -> int:
    """The peak of a server with ``requests``; no more sequences are alive than a plan counts."""
    moments = list(replay(traced, traced.rank(1), settings, requests, lag=CPU.behind.lag))
    assert max(moment.alive for moment in moments) <= settings.sequences
    return max(moment.peak for moment in moments)


def test_prompts_that_end_together_fit_the_plan(deep: Traced) -> None:
    """Three go to those generated for while one stays: all of them lie in memory twice."""
    context, step = 4096, 256
    settings = Settings(
        decode_concurrency=4, prompt_concurrency=4, prefill_step=step, prompt_cache_entries=0
    )
    # They come a chunk after one another, and are shorter by so much.
    together = [(17 + at, context - 70 - at * step, 6) for at in range(3)]
    requests = [(0, context - 70, 60)] * 3 + [*together, (20, context - 20, 6)]

    assert most(deep, settings, requests) <= need(deep, deep.rank(1), settings, context, CPU).mlx


def test_the_padding_of_those_that_left_fits_the_plan(deep: Traced) -> None:
    """A window in a batch that never empties grows to its size, however short the sequences."""
    settings = Settings(
        decode_concurrency=5, prompt_concurrency=2, prefill_step=512, prompt_cache_entries=1
    )
    sizes = [(56, 9), (126, 5), (155, 35), (185, 31), (201, 3), (258, 5), (298, 16), (375, 21)]
    requests = [(0, *size) for size in (*sizes, (381, 8), (394, 3))] + [(5, 396, 4), (55, 393, 7)]

    assert most(deep, settings, requests) <= need(deep, deep.rank(1), settings, 400, CPU).mlx


def test_whatever_comes_when_fits_the_plan(deep: Traced, seed: int) -> None:
    """Requests up to the context, of any length and order, under any settings."""
    chance = random.Random(seed)
    for _ in range(20):
        decode = chance.randint(1, 6)
        step = chance.choice((256, 512))
        settings = Settings(
            decode_concurrency=decode,
            prompt_concurrency=chance.randint(1, min(4, decode)),
            prefill_step=step,
            prompt_cache_entries=chance.randint(0, 3),
        )
        context = chance.choice((400, 1500, 4000))
        requests = []
        for _ in range(chance.randint(1, 16)):
            by_chunk = step * chance.randint(1, max(1, context // step)) + chance.randint(0, 1)
            prompt = chance.choice((context - 30, chance.randint(2, context - 30), by_chunk))
            prompt = min(prompt, context - 2)
            answer = chance.randint(1, min(40, context - prompt))
            requests.append((chance.choice((0, 0, chance.randint(0, 50))), prompt, answer))
        reserved = need(deep, deep.rank(1), settings, context, CPU)

        assert most(deep, settings, requests) <= reserved.mlx, (settings, context, requests)
