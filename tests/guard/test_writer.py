"""Answers as they are written, with scores and without, streamed and not."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from guard.ask import Ask, Delta, Event, Finish, Scored, Usage
from guard.errors import bad_request
from guard.order import Order
from guard.parts import Failed
from guard.render import Choice, Rendering, logprob
from guard.reply import Reply
from guard.vitals import Stream, Vitals
from guard.watch import judge_streams, probe
from guard.writer import Writer
from tests.guard.instance import events

NAMES = {1: "a", 2: "bc", 3: "def"}


class Named:
    """A tokenizer of three tokens."""

    async def pieces(self, ids: Sequence[int]) -> list[str]:
        return [NAMES[token] for token in ids]


def _streamed(choices: list[Choice], *taken: tuple[int, Event]) -> list[Any]:
    """The chunks' only choices."""
    sent: list[bytes] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message.get("body", b""))

    async def run() -> None:
        answer = Rendering(kind="text", model="m", fingerprint="")
        reply, tokenizer = Reply(cast("Any", send), "1"), cast("Any", Named())
        writer = Writer(answer, choices, reply, tokenizer, lambda _: None, scored=True)
        for index, event in taken:
            await writer.take(index, event)

    asyncio.run(run())
    return [chunk["choices"][0] for chunk in events(b"".join(sent).decode())]


def test_offsets_go_on_over_the_chunks_of_a_choice() -> None:
    """Each choice's own, as if its chunks were one."""
    first, second, third = (Scored(token, -1.0) for token in NAMES)
    choices = _streamed(
        [Choice(index=0), Choice(index=1)],
        (0, Delta("abc", scored=(first, second))),
        (1, Delta("def", scored=(third,))),
        (0, Delta("def", scored=(third,))),
        (1, Delta("a", scored=(first,))),
    )
    told = [(choice["index"], choice["logprobs"]["text_offset"]) for choice in choices]
    assert told == [(0, [0, 1]), (1, [0]), (0, [3]), (1, [3])]


def test_a_stream_keeps_nothing_of_what_it_has_said() -> None:
    """But how it ended and what it counted; kept scores were 21 MB of 12,000 tokens."""
    choice = Choice(index=0)
    _streamed([choice], (0, Delta("a", scored=(Scored(1, -1.0),))), (0, Finish("stop")),
              (0, Usage(7, 2)))  # fmt: skip
    assert (choice.text, choice.logprobs) == ("", [])
    assert (choice.finish, choice.usage) == ("stop", Usage(7, 2))


def test_a_part_of_a_character_has_no_bytes() -> None:
    """Its piece is U+FFFD, whose own bytes are not the token's."""
    told = logprob("\ufffd", Scored(1, -1.0, ((2, -2.0), (3, -3.0))), ["é", " \ufffd"])
    assert told["bytes"] is None
    assert [top["bytes"] for top in told["top_logprobs"]] == [[0xC3, 0xA9], None]


@pytest.mark.parametrize("outcome", ["", "slow_client"])
def test_only_its_client_reads_too_slowly(outcome: str) -> None:
    """Who waits for the tokenizer for long has a client that may read all the while."""
    order = Order("1", "/v1/completions")
    order.streams.append(Stream(8, 0.0))
    order.task = cast("Any", SimpleNamespace(done=lambda: False, cancel=lambda: None))
    (order.unread if outcome else order.blocked)(1.0)
    parts: Any = SimpleNamespace(
        vitals=Vitals(floor_s=10, compile_s=0, prefill_step=512, prompt_concurrency=4),
        metrics=SimpleNamespace(pace=SimpleNamespace(set=lambda _: None)),
        desk=SimpleNamespace(orders={order}),
        config=SimpleNamespace(slow_client_s=60.0),
    )
    parts.vitals.streams.update(order.streams)
    judge_streams(parts, 1000.0)
    assert order.outcome == outcome


@pytest.mark.parametrize("idle", [True, False])
def test_a_tokenizer_that_is_slow_with_clients_prompts_is_no_broken_instance(*, idle: bool) -> None:
    """The probe asks it where nobody else does; beside clients it asks the engine alone."""

    class Slow:
        async def count_text(self, prompt: str, *, most: int) -> int:
            del prompt, most
            raise bad_request("the prompt took too long to render or to tokenize")

    class Quick:
        async def generate(self, ask: Ask) -> AsyncGenerator[Event]:
            del ask
            yield Finish("length")

    parts: Any = SimpleNamespace(
        vitals=Vitals(floor_s=10, compile_s=0, prefill_step=512, prompt_concurrency=4),
        desk=SimpleNamespace(orders=set() if idle else {Order("1", "/v1/completions")}),
        tokenizer=Slow(),
        engine=Quick(),
    )
    with pytest.raises(Failed, match="too long") if idle else contextlib.nullcontext():
        asyncio.run(probe(parts))
    assert bool(parts.vitals.heard) != idle


def test_waiting_for_the_tokenizer_is_no_silence_of_the_engine() -> None:
    """The request counts as blocked meanwhile, streamed or not, and no longer."""
    order = Order("1", "/v1/completions")
    seen: list[float | None] = []

    class Busy:
        async def pieces(self, ids: Sequence[int]) -> list[str]:
            await asyncio.sleep(0)
            seen.append(order.blocked_since)
            assert order.unread_since is None
            return ["x" for _ in ids]

    writer = Writer(
        Rendering(kind="text", model="m", fingerprint=""),
        [Choice(index=0)],
        None,
        cast("Any", Busy()),
        order.blocked,
        scored=True,
    )
    asyncio.run(writer.take(0, Delta("x", "", (), (Scored(1, -0.5, ((2, -1.0),)),))))
    assert len(seen) == 2
    assert None not in seen
    assert order.blocked_since is None
