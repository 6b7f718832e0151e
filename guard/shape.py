"""What the guard does to one sequence itself: stop texts, one call at most, aligned scores."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from guard.ask import Delta, Event, Finish, Progress, Scored, Usage
from guard.schema import ToolCall
from guard.stops import StopFilter


async def shaped(
    events: AsyncGenerator[Event], *, stops: Sequence[str], most_calls: int, prompt_tokens: int
) -> AsyncGenerator[Event]:
    """The same sequence, ended where a stop text begins, its scores with the text they made.

    At most ``most_calls`` calls are passed on: a model calls tools unasked, too; and only those
    that a client can send back.  A call that is no JSON is lost in the engine, which says
    ``tool_calls`` all the same; without one it is ``stop``.
    Ending early closes ``events``, which calls the engine off before its own count.  Ours is as
    exact: all tokens are scored where there are stop texts (half a character is a token without a
    Delta), and of the prompt the engine says how much of it was not kept.
    """
    stop_filter = StopFilter(stops)
    scored: tuple[Scored, ...] = ()
    called = 0
    tokens, not_kept = 0, prompt_tokens
    async with aclosing(events) as source:
        async for event in source:
            if isinstance(event, Delta):
                tokens += len(event.scored)
                scored += event.scored
                text, stopped = stop_filter.feed(event.text)
                good = [call for call in event.tool_calls if _can_be_sent_back(call)]
                calls = tuple(
                    {**call, "index": index}  # the engine counts those that are left out, too
                    for index, call in enumerate(good[: most_calls - called], called)
                )
                called += len(calls)
                if text or event.reasoning or calls:
                    yield replace(event, text=text, tool_calls=calls, scored=scored)
                    scored = ()
                if stopped:
                    yield Finish("stop")
                    yield Usage(prompt_tokens, tokens, max(0, prompt_tokens - not_kept))
                    return
            elif isinstance(event, Finish):
                if event.reason != "length":
                    scored = scored[:-1]  # the end token, no part of the text
                if (rest := stop_filter.rest()) or scored:
                    yield Delta(rest, scored=scored)
                yield Finish("stop") if event.reason == "tool_calls" and not called else event
            else:
                if isinstance(event, Progress) and event.total:
                    not_kept = event.total
                yield event


def _can_be_sent_back(call: dict[str, Any]) -> bool:
    """The engine passes on whatever JSON the model wrote between the marks of a call."""
    try:
        ToolCall.model_validate(call)
    except ValidationError:
        return False
    return True
