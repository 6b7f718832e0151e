"""Every request that is known to kill, hang, empty or mislead the engine, through the guard."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.guard.instance import Instance, events

MESSAGES = [{"role": "user", "content": "hi"}]
CHAT = {"model": "tiny", "messages": MESSAGES, "max_tokens": 2}


@pytest.fixture(autouse=True)
def unharmed(instance: Instance) -> Iterator[None]:
    """After each attack the same engine process answers the control request as before."""
    pid, control = instance.engine_pid, instance.chat("control").json()["choices"]
    yield
    after = instance.chat("control").json()
    assert after["choices"] == control
    assert instance.engine_pid == pid


DEADLY: dict[str, dict[str, Any]] = {
    "top_k_of_the_vocabulary": {"top_k": 260, "temperature": 1},
    "top_k_beyond": {"top_k": 1 << 40, "temperature": 1},
    "xtc": {"xtc_threshold": 0.9, "xtc_probability": 1.0},
    "stop_is_a_number": {"stop": 7},
    "stop_of_numbers": {"stop": [1]},
    "stop_of_lists": {"stop": [["a"]]},
    "stop_is_empty": {"stop": ""},
    "bias_beyond_memory": {"logit_bias": {"1099511627776": 1}},
    "bias_beyond_the_vocabulary": {"logit_bias": {"260": 1}},
    "bias_is_no_id": {"logit_bias": {"٣": 1}},
    "negative_seed": {"seed": -(2**70)},
    "huge_seed": {"seed": 2**64},
    "endless_tokens": {"max_tokens": 10**30},
    "more_than_the_context": {"max_tokens": 4096},
    "no_tokens": {"max_tokens": 0},
    "template_of_the_client": {"chat_template_kwargs": {"chat_template": "{{ range(10**9) }}"}},
    "template_arguments": {"chat_template_kwargs": {"documents": []}},
    "role_mapping": {"role_mapping": {"user": "x"}},
    "adapters": {"adapters": "/etc"},
    "draft_model": {"draft_model": "gpt2"},
    "num_draft_tokens": {"num_draft_tokens": 5},
    "no_messages": {"messages": []},
    "unknown_role": {"messages": [{"role": "wizard", "content": "hi"}]},
    "remote_image": {
        "messages": [
            {
                "role": "user",
                "content": [{"type": "image_url", "image_url": {"url": "http://127.0.0.1:9/x"}}],
            }
        ]
    },
    "arguments_are_no_json": {
        "messages": [
            *MESSAGES,
            {
                "role": "assistant",
                "tool_calls": [
                    {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{"}}
                ],
            },
        ]
    },
    "json_is_promised": {"response_format": {"type": "json_object"}},
    "a_call_is_forced": {
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "tool_choice": "required",
    },
    "tools_without_a_template_for_them": {
        "tools": [{"type": "function", "function": {"name": "f"}}]
    },
    "too_many_choices": {"n": 1000},
    "temperature_is_a_text": {"temperature": "1"},
    "unheard_of": {"frobnicate": True},
}


@pytest.mark.parametrize("change", DEADLY.values(), ids=DEADLY.keys())
def test_a_deadly_request_gets_a_400(instance: Instance, change: dict[str, Any]) -> None:
    """What kills, hangs or misleads the engine is refused in OpenAI's format."""
    answer = instance.client.post("/v1/chat/completions", json=CHAT | change)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["message"]


@pytest.mark.parametrize("model", ["gpt-4", "", "/etc", "default_model", "Tiny"])
def test_no_other_model_is_reached(instance: Instance, model: str) -> None:
    """A name that is not the served one is a 404 and leaves the model where it is."""
    answer = instance.chat(model=model)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"


@pytest.mark.parametrize("prompt", ["", [""], [], [[]], [1.5], {"a": 1}, [[1], "a"], [260], [-1]])
def test_a_prompt_of_nothing_or_nonsense_gets_a_400(instance: Instance, prompt: object) -> None:
    """An empty prompt ends generation for good in the engine; here it is a bad request."""
    assert instance.complete(prompt).status_code == 400


BODIES = {
    "not_utf8": b'{"model": "\xff\xfe"}',
    "utf16": json.dumps(CHAT).encode("utf-16"),
    "not_json": b"{",
    "empty": b"",
    "a_list": b"[]",
    "twice": b'{"model":"tiny","model":"gpt-4","messages":[{"role":"user","content":"x"}]}',
    "twice_within": b'{"model":"tiny","messages":[{"role":"user","role":"system","content":"x"}]}',
    "nan": b'{"model":"tiny","temperature":NaN,"messages":[{"role":"user","content":"x"}]}',
    "infinity": b'{"model":"tiny","temperature":1e999,"messages":[{"role":"user","content":"x"}]}',
    "long_number": b'{"model":"tiny","max_tokens":' + b"9" * 5000 + b"}",
    "deep": b'{"model":"tiny","messages":' + b"[" * 20000 + b"]" * 20000 + b"}",
    "deep_tools": b'{"model":"tiny","tools":' + b'[{"a":' * 200 + b"1" + b"}]" * 200 + b"}",
    "surrogate": b'{"model":"tiny","messages":[{"role":"user","content":"\\ud800"}]}',
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
def test_a_body_that_parsers_read_differently_gets_a_400(instance: Instance, body: bytes) -> None:
    """Encodings, duplicate keys, numbers and nesting out of bounds never reach the engine."""
    answer = instance.raw(body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["message"]


def test_a_body_beyond_the_limit_gets_a_413(instance: Instance) -> None:
    """The engine would keep it, and write it whole into its log."""
    body = json.dumps(CHAT | {"user": "x" * (9 << 20)}).encode()
    assert instance.raw(body).status_code == 413


def test_continuing_a_completion_is_answered(instance: Instance) -> None:
    """A prompt that equals a kept prefix exactly ends generation for good in the bare engine."""
    first = instance.complete("once upon a time", max_tokens=8)
    said = first.json()["choices"][0]["text"]
    for _ in range(3):
        again = instance.complete("once upon a time" + said, max_tokens=8)
        assert again.status_code == 200
    same = instance.complete("once upon a time", max_tokens=8).json()["choices"][0]
    assert same == first.json()["choices"][0]


def test_the_same_prefix_is_reused(instance: Instance) -> None:
    """Prefix reuse keeps working, and says so in OpenAI's field."""
    text = "a long beginning that two prompts share, letter by letter; " * 4
    instance.complete(text + "one")
    used = instance.complete(text + "two").json()["usage"]
    assert used["prompt_tokens_details"]["cached_tokens"] >= len(text) - 1


def test_token_ids_are_a_prompt(instance: Instance) -> None:
    """OpenAI takes a prompt as tokens, too; the engine would die of a list."""
    as_text, as_tokens = instance.complete("abc"), instance.complete([64, 65, 66])
    assert as_tokens.status_code == 200
    assert as_tokens.json()["usage"]["prompt_tokens"] == 3
    assert as_text.json()["usage"]["prompt_tokens"] == 3


def test_several_prompts_and_choices_are_each_answered(instance: Instance) -> None:
    """``prompt: ["a", "b"]`` is valid OpenAI and kills the bare engine; ``n`` it ignores."""
    answer = instance.complete(["a", "b", "a"], n=2).json()
    texts = [choice["text"] for choice in answer["choices"]]
    assert [choice["index"] for choice in answer["choices"]] == list(range(6))
    assert texts[0:2] == texts[4:6]
    assert answer["usage"]["prompt_tokens"] == 3
    assert answer["usage"]["completion_tokens"] == 24


def test_half_open_requests_take_nothing_away(instance: Instance) -> None:
    """300 clients that send half a request leave the service as it was."""
    half = []
    for _ in range(300):
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(instance.socket))
        client.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
        half.append(client)
    began = time.monotonic()
    assert instance.chat().status_code == 200
    assert time.monotonic() - began < 5
    for client in half:
        client.close()


def test_clients_that_go_away_in_mid_prefill_stop_their_work(instance: Instance) -> None:
    """Cancelled in the middle of a prompt, streaming or not, the places come free."""
    prompt = "x" * 3500
    for stream in (True, False):
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(instance.socket))
        asked = {"model": "tiny", "prompt": prompt, "max_tokens": 500, "stream": stream}
        body = json.dumps(asked).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        client.sendall(head.encode() + body)
        time.sleep(0.05)
        client.close()
    instance.until(lambda: len(instance.requests_logged()) > 0)
    instance.until(lambda: running(instance) == 0, within_s=10)
    outcomes = [line["outcome"] for line in instance.requests_logged()]
    assert outcomes.count("client_gone") >= 2


def running(instance: Instance) -> float:
    for line in instance.client.get("/metrics").text.splitlines():
        if line.startswith("vllm:num_requests_running{"):
            return float(line.split()[-1])
    raise AssertionError("no such metric")


def test_a_seed_neither_stalls_nor_fails(instance: Instance) -> None:
    """A seeded request alone would drain the batch and serve one by one; four run at once."""
    answers: list[int] = []

    def ask() -> None:
        answers.append(instance.chat(seed=7, max_tokens=64).status_code)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [200] * 4


def test_nulls_mean_absent(instance: Instance) -> None:
    """``temperature: null`` is a 400 in the engine and an absent field in OpenAI's API."""
    optional = ("temperature", "top_p", "n", "stop", "max_completion_tokens", "tools", "seed",
                "logit_bias", "stream", "response_format", "user", "store", "audio")  # fmt: skip
    assert instance.chat(**dict.fromkeys(optional)).status_code == 200


def test_an_empty_stream_options_still_ends_with_done(instance: Instance) -> None:
    """``stream_options: {}`` loses ``[DONE]`` in the engine."""
    answer = instance.chat(stream=True, stream_options={})
    assert events(answer.text)[-1] == "[DONE]"
