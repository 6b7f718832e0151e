"""Nulls, and what a body of megabytes costs: it is given up at its first mistake."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types.chat import ChatCompletionMessage
from pydantic import ValidationError

from guard.errors import Refusal
from guard.schema import ChatRequest, CompletionRequest, check_chat
from guard.translate import messages

MANY = 5000
SAID = {"role": "user", "content": "x"}
ANSWERED = {"role": "assistant", "content": "x", "refusal": None, "reasoning": "y"}


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [0] * MANY},
        {"messages": [SAID | {"content": [0] * MANY}]},
        {"messages": [{"role": "assistant", "content": [0] * MANY}]},
        {"messages": [{"role": "assistant", "tool_calls": [0] * MANY}]},
        {"messages": [SAID | {f"x{at}": 0 for at in range(MANY)}]},
        {"messages": [SAID], "tools": [0] * MANY},
        {"messages": [SAID], "stop": [0] * MANY},
        {"messages": [SAID], "metadata": {f"x{at}": 0 for at in range(MANY)}},
        {"messages": [SAID], "logit_bias": {f"x{at}": "" for at in range(MANY)}},
        {"messages": [SAID] * 4 * MANY},
        {f"x{at}": 0 for at in range(MANY)},
    ],
)
def test_a_chat_of_mistakes_is_given_up_at_the_first(body: dict[str, Any]) -> None:
    """Collected, they would stop the guard's loop for longer than systemd waits for a beat."""
    with pytest.raises(ValidationError) as caught:
        ChatRequest.model_validate({"model": "m", **body})
    assert caught.value.error_count() < 20


@pytest.mark.parametrize(
    "prompt", [[-1] * MANY, [[-1] * MANY], ["a"] * MANY, [[1]] * MANY, [None] * MANY]
)
def test_a_prompt_of_mistakes_is_given_up_at_the_first(prompt: list[Any]) -> None:
    """In each of the forms that a prompt can have."""
    with pytest.raises(ValidationError) as caught:
        CompletionRequest.model_validate({"model": "m", "prompt": prompt})
    assert caught.value.error_count() < 20


@pytest.mark.parametrize(
    "message",
    [
        SAID | {"tool_calls": None, "name": None},
        SAID | {f"x{at}": None for at in range(100)},
        ChatCompletionMessage.model_validate(ANSWERED).model_dump(),
        SAID | {"content": [{"type": "text", "text": "x", "cache_control": None}]},
    ],
)
def test_a_null_is_absent_whatever_its_key_and_however_many(message: dict[str, Any]) -> None:
    """OpenAI's client sends an answer back with every key that it knows, most of them null."""
    assert check_chat({"model": "m", "messages": [message]}).messages[0].role == message["role"]


def test_what_clients_add_to_messages_is_dropped() -> None:
    """OpenAI's keeps a call's index from a stream; others name results, and have no annotations."""
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    calling = {"role": "assistant", "content": "", "tool_calls": [call]}
    result = {"role": "tool", "tool_call_id": "1", "content": "x"}
    added = [
        SAID,
        calling | {"tool_calls": [call | {"index": 0}], "annotations": []},
        result | {"name": "f"},
    ]
    plain = messages(check_chat({"model": "m", "messages": [SAID, calling, result]}))
    assert messages(check_chat({"model": "m", "messages": added})) == plain


def test_annotations_that_say_something_are_refused() -> None:
    said = {"role": "assistant", "content": "x", "annotations": [{"type": "url_citation"}]}
    with pytest.raises(Refusal, match="annotations"):
        check_chat({"model": "m", "messages": [said]})


@pytest.mark.parametrize("nulls", [0, 100])
def test_an_unknown_key_with_a_value_is_refused_by_its_name(nulls: int) -> None:
    """However many keys with nulls stand before it."""
    message = SAID | {f"x{at}": None for at in range(nulls)} | {"audio": {"id": "1"}}
    with pytest.raises(Refusal, match="audio"):
        check_chat({"model": "m", "messages": [message]})
    many = SAID | {f"x{at}": None for at in range(nulls)} | {f"y{at}": 0 for at in range(MANY)}
    with pytest.raises(Refusal, match="`y0`"):
        check_chat({"model": "m", "messages": [many]})


@pytest.mark.parametrize("strict", [True, 0, 1])
def test_a_strict_tool_is_refused(strict: object) -> None:
    """``false`` asks for nothing and passes; 0 is no ``false``."""
    tool = {"type": "function", "function": {"name": "weather", "strict": False}}
    body = {"model": "m", "messages": [SAID], "tools": [tool]}
    assert check_chat(body).tools is not None
    tool["function"]["strict"] = strict
    with pytest.raises(Refusal, match="strict"):
        check_chat(body)
