"""Stop texts, scores, places and the table of fields, without an engine."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat.completion_create_params import CompletionCreateParamsBase as ChatParams
from openai.types.completion_create_params import CompletionCreateParamsBase as TextParams

from guard import fields, schema
from guard.ask import Delta, Event, Finish, Progress, Scored, Usage
from guard.errors import Refusal
from guard.places import Places
from guard.shape import shaped
from guard.stops import StopFilter

DOCS = Path(__file__).parents[2] / "docs/guard.md"


@given(st.text("ab", max_size=30), st.lists(st.text("ab", min_size=1, max_size=4), max_size=4),
       st.lists(st.integers(0, 30)))  # fmt: skip
@settings(max_examples=500)
def test_stops_cut_where_the_text_says_however_it_comes(
    text: str, stops: list[str], cuts: list[int]
) -> None:
    """Fed in any pieces, the filter passes on what stands before the stop text that ends first."""
    stop_filter = StopFilter(stops)
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    passed, stopped = "", False
    for start, end in pairwise(edges):
        more, stopped = stop_filter.feed(text[start:end])
        passed += more
        if stopped:
            break
    if not stopped:
        passed += stop_filter.rest()
    met = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    assert stopped == bool(met)
    assert passed == (text[: min(met)[1]] if met else text)


async def _feed(*events: Event) -> AsyncGenerator[Event]:
    for event in events:
        yield event


def _shape(*events: Event, stops: tuple[str, ...] = (), most_calls: int = 0) -> list[Event]:
    async def run() -> list[Event]:
        source = _feed(*events)
        shape = shaped(source, stops=stops, most_calls=most_calls, prompt_tokens=7)
        return [event async for event in shape]

    return asyncio.run(run())


def test_a_stop_across_two_deltas_ends_the_sequence() -> None:
    """What was held back is never sent, and the rest is called off."""
    assert _shape(Delta("one E"), Delta("ND two"), Delta("x"), stops=("END",))[:2] == [
        Delta("one "), Finish("stop"),
    ]  # fmt: skip


def test_a_stop_is_counted_by_tokens_and_by_what_the_prompt_left_to_process() -> None:
    """A text may be of several tokens; and the engine's own count comes at its end only."""
    a, b, c = (Scored(token, -1.0) for token in range(3))
    signs = (Progress(2, 5), Progress(5, 5), Progress())
    stop = Delta("ND", scored=(c,))
    told = _shape(*signs, Delta("é E", scored=(a, b)), stop, Delta("x"), stops=("END",))
    assert told == [*signs, Delta("é ", scored=(a, b)), Finish("stop"), Usage(7, 3, 2)]


def test_scores_go_with_the_text_and_the_end_token_has_none() -> None:
    """A token that made no text yet waits for the next; the end token is dropped."""
    a, b, end = Scored(1, -1.0), Scored(2, -2.0), Scored(0, -3.0)
    told = _shape(Delta("", scored=(a,)), Delta("é", scored=(b,)), Delta("", scored=(end,)),
                  Finish("stop"))  # fmt: skip
    assert told == [Delta("é", scored=(a, b)), Finish("stop")]


def _call(index: int, **function: object) -> dict[str, Any]:
    return {
        "index": index, "id": str(index), "type": "function",
        "function": {"name": "f", "arguments": "{}"} | function,
    }  # fmt: skip


@pytest.mark.parametrize(
    "wrong",
    [
        _call(0, arguments='"{}"'),
        _call(0, arguments="null"),
        _call(0, arguments='{"a": "\ud83d"}'),
        _call(0, arguments='{"a": "\\ud83d"}'),
        _call(0, arguments='{"a": NaN}'),
        _call(0, name="get weather"),
        _call(0, name=None),
        _call(0, name=7),
        _call(0) | {"id": 7},
        _call(0) | {"function": 7},
    ],
)
def test_a_call_that_would_be_refused_when_it_is_sent_back_is_none(wrong: dict[str, Any]) -> None:
    """Left out; those after it are counted without it, for clients put them together by that."""
    end = Finish("tool_calls")
    told = _shape(
        Delta("x", tool_calls=(wrong, _call(1))), Delta(tool_calls=(_call(2),)), end, most_calls=9
    )
    assert told == [
        Delta("x", tool_calls=(_call(0) | {"id": "1"},)),
        Delta(tool_calls=(_call(1) | {"id": "2"},)),
        end,
    ]
    assert _shape(Delta(tool_calls=(wrong,)), end, most_calls=9) == [Finish("stop")]


def test_so_many_calls_are_passed_on_as_may_be_made() -> None:
    """One with ``parallel_tool_calls: false``, none where no tool was offered."""
    calls = Delta(tool_calls=(_call(0), _call(1)))
    more = Delta(tool_calls=(_call(2), _call(3)))
    end = Finish("tool_calls")
    one = Delta(tool_calls=(_call(0),))
    assert _shape(calls, more, end, most_calls=1) == [one, end]
    assert _shape(calls, more, end, most_calls=9) == [calls, more, end]
    assert _shape(calls, Delta("rain"), end) == [Delta("rain"), Finish("stop")]


def test_a_call_that_the_engine_lost_is_not_promised() -> None:
    """It drops one whose arguments are no JSON, and says ``tool_calls`` all the same."""
    assert _shape(Delta(""), Finish("tool_calls"), most_calls=9) == [Finish("stop")]


def test_places_are_given_in_order_and_refused_beyond_the_queue() -> None:
    """First come, first served; one more than may wait is turned away."""

    async def run() -> list[int]:
        places, order = Places(running=1, waiting=1), []
        inside = asyncio.Event()

        async def one(number: int) -> None:
            with places.admitted():
                async with places.place():
                    order.append(number)
                    await inside.wait()

        tasks = [asyncio.create_task(one(0))]
        await asyncio.sleep(0)
        tasks.append(asyncio.create_task(one(1)))
        await asyncio.sleep(0)
        with pytest.raises(Refusal, match="come again"):
            await one(2)
        inside.set()
        await asyncio.gather(*tasks)
        return order

    assert asyncio.run(run()) == [0, 1]


OURS = {"top_k", "min_p", "repetition_penalty", "chat_template_kwargs", "stream"}


@pytest.mark.parametrize(
    ("table", "model", "official"),
    [
        (fields.CHAT, schema.ChatRequest, ChatParams),
        (fields.COMPLETION, schema.CompletionRequest, TextParams),
    ],
)
def test_every_field_of_openais_client_has_its_fate(
    table: dict[str, fields.Field], model: type[schema.Request], official: type
) -> None:
    """The table, the schema and OpenAI's own client name the same fields."""
    assert set(official.__annotations__) - set(table) == set()
    assert set(table) - set(official.__annotations__) - OURS == set()
    accepted = {name for name, field in table.items() if field.fate != "refused"}
    assert set(model.model_fields) == accepted


def test_the_documented_table_is_the_code() -> None:
    """docs/guard.md shows each field with the fate and the reason that stand in the code."""
    text = DOCS.read_text()
    for title, table in (("chat", fields.CHAT), ("completions", fields.COMPLETION)):
        section = text.split(f"<!-- fields: {title} -->")[1].split("<!-- end -->")[0]
        rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*) \|$", section, re.MULTILINE)
        assert rows == [(name, field.fate, field.why) for name, field in table.items()]


@pytest.mark.parametrize(("name", "value"), [("best_of", True), ("best_of", 1.0), ("store", 0)])
def test_what_only_equals_a_harmless_value_is_refused(name: str, value: object) -> None:
    """In Python ``True == 1``; in JSON they are two things."""
    table = fields.COMPLETION if name in fields.COMPLETION else fields.CHAT
    for harmless in table[name].harmless:
        assert fields.refuse_what_is_refused({name: harmless}, table) == {}
    with pytest.raises(Refusal, match=name):
        fields.refuse_what_is_refused({name: value}, table)
