"""What a request leaves in the metrics, with an engine of a known pace."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, cast

from guard.ask import Ask, Delta, Event, Finish, Usage
from guard.config import Config
from guard.desk import Desk
from guard.metrics import Metrics
from guard.order import Order
from guard.reply import Reply
from guard.tokenizer import TokenizerFacts
from guard.vitals import Vitals

EVERY_S = 0.05


class Paced:
    """An engine that says a token every ``EVERY_S``."""

    async def generate(self, ask: Ask) -> AsyncGenerator[Event]:
        for _ in range(ask.max_tokens):
            yield Delta("x")
            await asyncio.sleep(EVERY_S)
        yield Finish("length")
        yield Usage(1, ask.max_tokens)


class OneToken:
    async def count_text(self, _: str, *, most: int) -> int:  # noqa: ARG002 - the tokenizer's own
        return 1


def test_choices_do_not_shorten_each_others_time_between_tokens(tmp_path: Path) -> None:
    """Four at once get a token every 50 ms each, not one every 12 ms."""
    config = Config(
        instance="tiny.0", slug="tiny", served_name="tiny", runtime="/r", model="/m", inputs="i",
        context_tokens=64, concurrency=4, prompt_concurrency=4, decode_concurrency=4,
        socket=f"{tmp_path}/s", run_dir=str(tmp_path), cache_dir=str(tmp_path),
    )  # fmt: skip
    metrics = Metrics(config)
    vitals = Vitals(floor_s=20, compile_s=0, prefill_step=64, prompt_concurrency=4)
    desk = Desk(config, Paced(), cast("Any", OneToken()), vitals, metrics)
    desk.facts = TokenizerFacts(
        vocabulary=9, chat=False, tools=False, thinking=False, template_arguments=frozenset()
    )

    async def send(_: object) -> None:
        """Nobody reads it."""

    body = b'{"model": "tiny", "prompt": "a", "n": 4, "max_tokens": 3}'
    order, reply = Order("1", "/v1/completions", body=body), Reply(cast("Any", send), "1")
    asyncio.run(desk.serve("text", order, reply))
    told = dict(line.rsplit(" ", 1) for line in metrics.render().decode().splitlines())
    name = "vllm:inter_token_latency_seconds_{}" + '{{engine="0",model_name="tiny"}}'
    assert float(told[name.format("count")]) == 4 * 2
    assert float(told[name.format("sum")]) > 4 * 2 * EVERY_S * 0.9
