"""Requests made at random from OpenAI's schema and from what is known to hurt, put to a guard.

    .venv/bin/python -m tests.guard.fuzz --requests 50000 --seed 1

One process of the real mlx_lm.server behind one guard for the whole run.  It ends well if that
process is the same at the end, every control request on the way was answered as the first one, and
every answer was OpenAI's: 200, or an error object with a status that OpenAI's client knows.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from copy import deepcopy
from pathlib import Path
from typing import Any

import httpx2

from tests.guard.instance import Instance, events
from tests.guard.models import WITH_TOOLS, make_tiny_llama

KNOWN = {200, 400, 404, 405, 408, 413, 429, 503}
NASTY: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 7, 1.5, -0.0, 1e-320, 1e308, 2**31, 2**63, -(2**63), 10**30, "",
    "a", "\x00", "é", "\U0001f600", "\u202e", "default_model", "/etc/passwd", "x" * 2000, [],
    [None], [1], [[1]], ["a", "b"], [""], {}, {"a": 1}, {"1099511627776": 1},
    {"chat_template": "{{ 1 }}"}, {"type": "json_object"}, {"include_usage": None}, [[[[]]]],
)  # fmt: skip
EXTRA = (
    "adapters", "draft_model", "num_draft_tokens", "role_mapping", "xtc_probability",
    "xtc_threshold", "repetition_context_size", "presence_context_size", "best_of", "suffix",
    "response_format", "functions", "audio", "modalities", "prediction", "guided_json", "logprobs",
    "__proto__", "model ", "",
)  # fmt: skip
COUNTED = ("vllm:request_success_total", "mlx_guard_requests_total", "mlx_guard_prompts_mis")
WORDS = ("the", "of", " ", "\n", "<|end|>", "<|user|>", "<tool_call>", "</tool_call>", "{", "}",
         "é", "中", "\U0001f600", "\x00", "a" * 50, "<think>", "{{ 7 }}", "{% raw %}")  # fmt: skip


class Maker:
    """One seeded stream of requests."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.said: list[str] = []

    def text(self, most: int = 12) -> str:
        chance = self.chance
        return "".join(chance.choice(WORDS) for _ in range(chance.randint(1, most)))

    def message(self, role: str) -> dict[str, Any]:
        chance = self.chance
        content: Any = self.text()
        if chance.random() < 0.2:
            content = [{"type": "text", "text": self.text()} for _ in range(chance.randint(1, 3))]
        made: dict[str, Any] = {"role": role, "content": content}
        if role == "assistant" and chance.random() < 0.3:
            function = {"name": "f", "arguments": json.dumps({"a": self.text(2)})}
            made["tool_calls"] = [{"id": "1", "type": "function", "function": function}]
        if role == "tool":
            made["tool_call_id"] = "1"
        return made

    def valid(self) -> tuple[str, dict[str, Any]]:
        """A request that OpenAI's service would take."""
        chance = self.chance
        body: dict[str, Any] = {
            "model": "tiny",
            "max_tokens": chance.choice((1, 1, 1, 2, 2, 3, 8, 30)),
        }
        optional: dict[str, Any] = {
            "temperature": chance.choice((0, 0.7, 1, 2, 1e-9)),
            "top_p": chance.choice((0, 0.5, 1)),
            "n": chance.choice((1, 1, 1, 2, 3)),
            "stop": chance.choice(("a", ["a", "é"], "\n", None)),
            "stream": chance.random() < 0.5,
            "seed": chance.randint(-5, 5),
            "presence_penalty": chance.uniform(-2, 2),
            "frequency_penalty": chance.uniform(-2, 2),
            "logit_bias": {str(chance.randrange(260)): chance.uniform(-100, 100)},
            "user": "u",
        }
        for name in chance.sample(sorted(optional), chance.randint(0, 5)):
            body[name] = optional[name]
        if body.get("stream") and chance.random() < 0.5:
            body["stream_options"] = {"include_usage": chance.random() < 0.5}
        if chance.random() < 0.4:
            prompt: Any = self.text()
            if chance.random() < 0.3:
                prompt = [self.text(), self.text()]
            elif chance.random() < 0.3:
                prompt = [chance.randrange(256) for _ in range(5)]
            elif self.said and chance.random() < 0.6:
                prompt = chance.choice(self.said)  # the same again, or continued
            body["prompt"] = prompt
            if chance.random() < 0.2:
                body["logprobs"] = chance.randint(0, 5)
            return "/v1/completions", body
        roles = chance.choices(("system", "user", "assistant", "tool", "developer"), k=3)
        body["messages"] = [self.message(role) for role in [*roles[: chance.randint(0, 3)], "user"]]
        if chance.random() < 0.2:
            body["tools"] = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
        if chance.random() < 0.2:
            body |= {"logprobs": True, "top_logprobs": chance.randint(0, 10)}
        return "/v1/chat/completions", body

    def hurt(self, body: dict[str, Any]) -> None:
        """One thing made wrong, anywhere."""
        chance = self.chance
        target: Any = body
        while chance.random() < 0.4:
            inner = list(target.values()) if isinstance(target, dict) else list(target)
            deeper = [one for one in inner if isinstance(one, dict | list) and one]
            if not deeper:
                break
            target = chance.choice(deeper)
        if isinstance(target, list):
            target[chance.randrange(len(target))] = deepcopy(chance.choice(NASTY))
            return
        kind = chance.random()
        if kind < 0.2:
            target.pop(chance.choice(sorted(target)))
        elif kind < 0.4:
            target[chance.choice(EXTRA)] = deepcopy(chance.choice(NASTY))
        else:
            target[chance.choice(sorted(target))] = deepcopy(chance.choice(NASTY))

    def request(self) -> tuple[str, bytes]:
        path, body = self.valid()
        chance = self.chance
        if (kind := chance.random()) > 0.3:
            for _ in range(chance.randint(1, 3)):
                self.hurt(body)
        data = json.dumps(body).encode()
        if kind > 0.93:
            data = bytearray(data)
            for _ in range(chance.randint(1, 4)):
                data[chance.randrange(len(data))] = chance.randrange(256)
        return path, bytes(data)


def worker(instance: Instance, maker: Maker, count: int, told: Counter[str], wrong: list[str],
           lock: threading.Lock) -> None:  # fmt: skip
    transport = httpx2.HTTPTransport(uds=str(instance.socket))
    with httpx2.Client(transport=transport, base_url="http://guard", timeout=120) as client:
        for _ in range(count):
            path, body = maker.request()
            try:
                outcome = ask(client, path, body, maker)
            except (httpx2.HTTPError, ValueError, KeyError, AssertionError) as error:
                outcome = f"wrong: {type(error).__name__}"
                with lock:
                    wrong.append(f"{error!r}: {body[:300]!r}")
            with lock:
                told[outcome] += 1


def ask(client: httpx2.Client, path: str, body: bytes, maker: Maker) -> str:
    if maker.chance.random() < 0.02:  # goes away in the middle
        with client.stream("POST", path, content=body) as gone:
            return f"{gone.status_code}, and the client left"
    answer = client.post(path, content=body)
    assert answer.status_code in KNOWN, answer.status_code
    if answer.status_code != 200:
        assert answer.json()["error"]["message"]
        return str(answer.status_code)
    if answer.headers["content-type"].startswith("text/event-stream"):
        chunks = events(answer.text)
        assert chunks[-1] == "[DONE]", answer.text[-300:]
        return "200 stream"
    choices = answer.json()["choices"]
    if path == "/v1/completions" and len(maker.said) < 50 and b'"prompt": "' in body:
        prompt = json.loads(body)["prompt"]
        maker.said += [prompt, prompt + choices[0]["text"]]
    return "200"


def fuzz(requests: int, seed: int, place: Path, *, workers: int = 6) -> dict[str, Any]:
    model = make_tiny_llama(place / "model", template=WITH_TOOLS)
    config = {"context_tokens": 512, "concurrency": 8, "decode_concurrency": 8,
              "prompt_cache_entries": 8, "hang_floor_s": 20}  # fmt: skip
    told: Counter[str] = Counter()
    wrong: list[str] = []
    lock = threading.Lock()
    with Instance(place, model, **config) as instance:
        pid = instance.engine_pid
        control = instance.chat("control").json()["choices"]
        threads = [
            threading.Thread(
                target=worker,
                args=(instance, Maker(seed * 1000 + n), -(-requests // workers), told, wrong, lock),
            )
            for n in range(workers)
        ]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            time.sleep(5)
            assert instance.chat("control").json()["choices"] == control
            assert instance.engine_pid == pid
            done = sum(told.values())
            since = time.monotonic() - began
            print(f"{done} in {since:.0f} s, wrong: {len(wrong)}", file=sys.stderr, flush=True)
        assert instance.chat("control").json()["choices"] == control
        assert instance.engine_pid == pid
        metrics = instance.client.get("/metrics").text.splitlines()
    totals = {
        line.split()[0]: float(line.split()[1])
        for line in metrics
        if line.startswith(COUNTED)
    }  # fmt: skip
    return {
        "requests": sum(told.values()),
        "seed": seed,
        "seconds": round(time.monotonic() - began),
        "outcomes": dict(sorted(told.items())),
        "sequences_generated": sum(
            value for name, value in totals.items() if name.startswith("vllm:request_success")
        ),
        "guard": totals,
        "wrong": wrong[:20],
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        print(json.dumps(fuzz(given.requests, given.seed, Path(folder)), indent=2))
