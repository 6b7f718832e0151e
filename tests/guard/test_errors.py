"""What goes wrong comes out of OpenAI's own client as it would with OpenAI's service."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest

from tests.guard.clients import openai_client
from tests.guard.fake_engine import FORGET, make_runtime
from tests.guard.instance import Instance
from tests.guard.streaming import InFlight


def started(place: Path, model: Path) -> Instance:
    """Two at once and nobody waits; three seconds of silence are too long."""
    return Instance(
        place, model, runtime=str(make_runtime(place / "runtime")), concurrency=2, waiting=0,
        hang_floor_s=3, compile_allowance_s=0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Iterator[Instance]:
    """For the tests that leave it whole."""
    with started(tmp_path_factory.mktemp("errors"), tiny) as ready:
        yield ready


@pytest.fixture
def fresh(tmp_path: Path, tiny: Path) -> Iterator[Instance]:
    with started(tmp_path, tiny) as ready:
        yield ready


def asked(text: str = "hi", **more: object) -> dict[str, object]:
    return {"model": "tiny", "messages": [{"role": "user", "content": text}],
            "max_tokens": 4} | more  # fmt: skip


def read(client: openai.OpenAI, **request: object) -> int:
    """How many pieces of text a stream had; raises what the client raises."""
    with client.chat.completions.create(**request, stream=True) as chunks:
        return sum(bool(chunk.choices[0].delta.content) for chunk in chunks)


def whole(client: openai.OpenAI, **request: object) -> int:
    answer = client.chat.completions.create(**request)
    return len(answer.choices[0].message.content.split())


@pytest.mark.parametrize("way", [read, whole])
def test_a_forgotten_request_ends_alone(
    client: openai.OpenAI, instance: Instance, way: Callable[..., int]
) -> None:
    """Silent while another moves: that one gets an error, the other its whole answer."""
    pid = instance.engine_pid
    with ThreadPoolExecutor() as pool:
        moving = pool.submit(way, client, **asked(max_tokens=240))
        with pytest.raises(openai.APIError) as told:
            way(client, **asked(FORGET, max_tokens=240))
        assert moving.result() == 240
    assert told.value.code == "starved"
    assert isinstance(told.value, openai.InternalServerError) == (way is whole)
    assert instance.engine_pid == pid
    assert 'requests_total{outcome="starved"} ' in instance.client.get("/metrics").text


def test_too_many_are_a_rate_limit(client: openai.OpenAI, instance: Instance) -> None:
    """OpenAI's client waits as long as it is told, by itself, and is served then."""
    streams = [InFlight(instance, max_tokens=60) for _ in range(2)]
    with pytest.raises(openai.RateLimitError) as told:
        client.chat.completions.create(**asked())
    assert int(told.value.response.headers["retry-after"]) >= 1
    assert client.with_options(max_retries=5).chat.completions.create(**asked()).choices
    assert all(stream.ended.wait(10) for stream in streams)


def test_a_stream_whose_engine_dies_raises(fresh: Instance) -> None:
    """In the middle of it: the client does not take the part for the whole."""
    threading.Timer(1.0, os.kill, (fresh.engine_pid, signal.SIGKILL)).start()
    with openai_client(fresh) as client, pytest.raises(openai.APIError) as told:
        read(client, **asked(max_tokens=200))
    assert told.value.code == "engine_failed"


def test_an_answer_whose_engine_dies_raises(fresh: Instance) -> None:
    """Not streaming: a 503, which OpenAI's client tries again where it may."""
    threading.Timer(1.0, os.kill, (fresh.engine_pid, signal.SIGKILL)).start()
    with openai_client(fresh) as client, pytest.raises(openai.InternalServerError) as told:
        whole(client, **asked(max_tokens=200))
    assert told.value.code == "engine_failed"
    assert told.value.response.headers["retry-after"]


def test_who_comes_while_it_stops_is_told(fresh: Instance) -> None:
    """A 503 with its reason, while the one in flight ends whole."""
    stream = InFlight(fresh, max_tokens=60)
    assert fresh.process is not None
    fresh.process.send_signal(signal.SIGTERM)
    fresh.until(lambda: fresh.client.get("/ready").json()["state"] == "draining")
    with openai_client(fresh) as client, pytest.raises(openai.InternalServerError) as told:
        client.chat.completions.create(**asked())
    assert told.value.code == "draining"
    assert stream.ended.wait(10)
    assert stream.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"n": 100}, "n"),
        ({"top_logprobs": 3}, None),
        ({"stream_options": {"include_usage": True}}, None),
        (
            {"messages": [{"role": "user", "content": [
                {"type": "image_url", "image_url": {"url": "http://192.0.2.1/x.png"}}]}]},
            "messages.0.user.content",
        ),
    ],
)  # fmt: skip
def test_what_is_refused_is_a_bad_request(
    client: openai.OpenAI, more: dict[str, object], param: str | None
) -> None:
    """With the field, where there is one."""
    with pytest.raises(openai.BadRequestError) as told:
        client.chat.completions.create(**asked(**more))
    if param is None:
        assert told.value.param is None
    else:
        assert str(told.value.param).startswith(param)
    assert told.value.type == "invalid_request_error"


def test_other_paths_and_sizes(client: openai.OpenAI) -> None:
    """What is not served at all, and what is too large to be read."""
    with pytest.raises(openai.NotFoundError):
        client.images.generate(prompt="x")
    with pytest.raises(openai.APIStatusError) as told:
        client.chat.completions.create(**asked("x" * (9 << 20)))
    assert told.value.status_code == 413
