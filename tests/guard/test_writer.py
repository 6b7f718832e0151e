"""Answers with scores, while the tokenizer is busy with others."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

from guard.ask import Delta, Scored
from guard.order import Order
from guard.render import Choice, Rendering
from guard.writer import Writer


def test_waiting_for_the_tokenizer_is_no_silence_of_the_engine() -> None:
    """The request counts as blocked meanwhile, streamed or not, and no longer."""
    order = Order("1", "/v1/completions")
    seen: list[float | None] = []

    class Busy:
        async def pieces(self, ids: Sequence[int]) -> list[str]:
            await asyncio.sleep(0)
            seen.append(order.blocked_since)
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
