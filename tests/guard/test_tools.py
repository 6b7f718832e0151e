"""Models that call tools, well and badly, through OpenAI's own client and the real engine."""

from __future__ import annotations

import json
from collections.abc import Iterator

import openai
import pytest

from tests.guard.instance import Instance
from tests.guard.models import make_scripted_llama

PARIS = '{"name": "weather", "arguments": {"place": "Paris"}}'
ROME = '{"name": "weather", "arguments": {"place": "Rome"}}'
SCRIPTS = {
    "<one>": ("Let me see. ", "<tool_call>", PARIS, "</tool_call>"),
    "<two>": (f"<tool_call>{ROME}</tool_call>", f"<tool_call>{PARIS} </tool_call>"),
    "<broken>": ("Well, ", '<tool_call>{"name": "weather", "argum', "</tool_call> "),
    "<nameless>": ('<tool_call>{"arguments": 1}</tool_call>', "  "),
    "<number>": ("<tool_call>7</tool_call>", "   "),
    "<less>": ("a is ", "less <"),
    "<bare>": ('<tool_call>{"name": "weather"}</tool_call>', "    "),
    "<string>": ('<tool_call>{"name": "weather", "arguments": "{}"}</tool_call>', "     "),
    "<null>": ('<tool_call>{"name": "weather", "arguments": null}</tool_call>', "      "),
    "<lone>": (
        """<tool_call>{"name": "weather", "arguments": {"place": "\\ud83d"}}</tool_call>""",
        "       ",
    ),
    "<id>": (
        """<tool_call>{"id": 7, "name": "weather", "arguments": {}}</tool_call>""",
        "        ",
    ),
    "<odd>": ("""<tool_call>{"name": "the weather", "arguments": {}}</tool_call>""", "         "),
    "<gap>": ('<tool_call>{"arguments": {}}</tool_call>', f"<tool_call> {PARIS}</tool_call>"),
    "<typed>": (f'<tool_call>{{"type": "function", {ROME[1:]}</tool_call>', "          "),
}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}},
    },
}


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """A model that says what stands in its script."""
    place = tmp_path_factory.mktemp("tools")
    with Instance(place, make_scripted_llama(place / "model", SCRIPTS)) as started:
        yield started


def asked(script: str, **more: object) -> dict[str, object]:
    return {"model": "tiny", "messages": [{"role": "user", "content": script}],
            "tools": [WEATHER], **more}  # fmt: skip


def places(calls: list[object] | None) -> list[str]:
    return [json.loads(call.function.arguments)["place"] for call in calls or []]


def test_a_call(client: openai.OpenAI) -> None:
    """Text before it, whole arguments, an id, and OpenAI's reason."""
    (choice,) = client.chat.completions.create(**asked("<one>")).choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "Let me see. "
    (call,) = choice.message.tool_calls
    assert call.type == "function"
    assert call.id
    assert call.function.name == "weather"
    assert json.loads(call.function.arguments) == {"place": "Paris"}


def test_calls_on_a_stream_have_their_index(client: openai.OpenAI) -> None:
    """As OpenAI's client puts them together again."""
    with client.chat.completions.stream(**asked("<two>")) as stream:
        (choice,) = stream.get_final_completion().choices
    assert choice.finish_reason == "tool_calls"
    assert places(choice.message.tool_calls) == ["Rome", "Paris"]
    chunks = list(client.chat.completions.create(**asked("<two>", stream=True)))
    calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert [call.index for call in calls] == [0, 1]
    assert len({call.id for call in calls}) == 2


@pytest.mark.parametrize("stream", [False, True])
def test_one_call_where_one_is_asked_for(client: openai.OpenAI, stream: bool) -> None:  # noqa: FBT001
    """``parallel_tool_calls: false``, which the engine does not know."""
    request = asked("<two>", parallel_tool_calls=False)
    if stream:
        with client.chat.completions.stream(**request) as streamed:
            (choice,) = streamed.get_final_completion().choices
    else:
        (choice,) = client.chat.completions.create(**request).choices
    assert places(choice.message.tool_calls) == ["Rome"]
    assert choice.finish_reason == "tool_calls"


@pytest.mark.parametrize("more", [{"tool_choice": "none"}, {"tools": openai.omit}])
def test_no_call_where_none_may_be_made(client: openai.OpenAI, more: dict[str, object]) -> None:
    """A model that calls unasked; the client would not know what to do with it."""
    (choice,) = client.chat.completions.create(**asked("<one>", **more)).choices
    assert choice.message.tool_calls is None
    assert choice.message.content == "Let me see. "
    assert choice.finish_reason == "stop"


def test_a_call_cut_off_is_no_call(client: openai.OpenAI) -> None:
    """``length``: what was generated of its arguments is not half a call."""
    (choice,) = client.chat.completions.create(**asked("<one>", max_tokens=2)).choices
    assert choice.finish_reason == "length"
    assert choice.message.tool_calls is None


def test_a_call_that_is_no_json_is_not_promised(client: openai.OpenAI) -> None:
    """The engine drops it and says ``tool_calls``; a client would look for what is not there."""
    (choice,) = client.chat.completions.create(**asked("<broken>")).choices
    assert choice.message.tool_calls is None
    assert choice.message.content.startswith("Well, ")
    assert choice.finish_reason == "stop"


def test_a_call_of_nobody_is_no_call(client: openai.OpenAI) -> None:
    """The engine passes on a function without a name."""
    (choice,) = client.chat.completions.create(**asked("<nameless>")).choices
    assert choice.message.tool_calls is None
    assert choice.finish_reason == "stop"


@pytest.mark.parametrize("script", ["<number>", "<bare>"])
def test_a_call_that_would_break_the_engines_parser_is_no_call(
    client: openai.OpenAI, script: str
) -> None:
    """JSON, but no call: left out as one that is no JSON is, and the answer ends whole."""
    (choice,) = client.chat.completions.create(**asked(script)).choices
    assert choice.message.tool_calls is None
    assert choice.finish_reason == "stop"


@pytest.mark.parametrize(
    ("script", "text"),
    [("<one>", f"Let me see. <tool_call>{PARIS}</tool_call>"), ("<less>", "a is less <")],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_completion_is_what_was_written(
    client: openai.OpenAI,
    script: str,
    text: str,
    stream: bool,  # noqa: FBT001
) -> None:
    """Marks of a call included, and what only may begin one: there is no tool to call."""
    told = client.completions.create(model="tiny", prompt=script, max_tokens=9, stream=stream)
    choices = [part.choices[0] for part in (told if stream else [told])]
    assert "".join(choice.text for choice in choices) == text
    assert choices[-1].finish_reason == "stop"


@pytest.mark.parametrize("script", ["<string>", "<null>", "<lone>", "<id>", "<odd>"])
def test_a_call_that_cannot_be_sent_back_is_no_call(client: openai.OpenAI, script: str) -> None:
    """The guard itself would refuse it; the answer ends whole."""
    (choice,) = client.chat.completions.create(**asked(script)).choices
    assert choice.message.tool_calls is None
    assert choice.finish_reason == "stop"


@pytest.mark.parametrize(("script", "place"), [("<gap>", "Paris"), ("<typed>", "Rome")])
def test_a_call_beside_what_is_none_is_passed_on_and_taken_back(
    client: openai.OpenAI, script: str, place: str
) -> None:
    """On a stream the first has index 0, and OpenAI's client sends that back."""
    with client.chat.completions.stream(**asked(script)) as stream:
        message = stream.get_final_completion().choices[0].message
    assert places(message.tool_calls) == [place]
    messages = [
        {"role": "user", "content": script},
        message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "rain"},
        {"role": "user", "content": "<one>"},
    ]
    (second,) = client.chat.completions.create(**asked("", messages=messages)).choices
    assert places(second.message.tool_calls) == ["Paris"]


def test_a_conversation_with_its_calls_goes_on(client: openai.OpenAI) -> None:
    """The client sends back what it was given, as it was given."""
    (first,) = client.chat.completions.create(**asked("<two>")).choices
    (call, _) = first.message.tool_calls
    messages = [
        {"role": "user", "content": "<two>"},
        first.message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "rain"},
        {"role": "user", "content": "<one>"},
    ]
    (second,) = client.chat.completions.create(**asked("", messages=messages)).choices
    assert places(second.message.tool_calls) == ["Paris"]
