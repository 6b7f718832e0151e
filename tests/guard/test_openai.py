"""OpenAI's own Python client against the guard: its answers, and its exceptions."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from tests.guard.instance import Instance
from tests.guard.models import WITH_TOOLS, make_tiny_llama

HI = [{"role": "user", "content": "hi"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "of a place",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}},
    },
}


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """A model whose template knows tools and a thinking switch."""
    place = tmp_path_factory.mktemp("openai")
    model = make_tiny_llama(place / "model", template=WITH_TOOLS)
    with Instance(place, model) as started:
        yield started


def test_a_chat(client: openai.OpenAI) -> None:
    """Not streaming: one choice, a reason, a count, the served name."""
    answer = client.chat.completions.create(model="tiny", messages=HI, max_tokens=5, temperature=0)
    assert answer.model == "tiny"
    assert answer.object == "chat.completion"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 5


def test_a_chat_as_a_stream_is_the_same_chat(client: openai.OpenAI) -> None:
    """The chunks' contents make the whole answer; usage comes where it is asked for."""
    asked = {"model": "tiny", "messages": HI, "max_tokens": 9, "temperature": 0}
    whole = client.chat.completions.create(**asked)
    chunks = list(
        client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == "length"
    assert (
        chunks[-1].usage == whole.usage or chunks[-1].usage.total_tokens == whole.usage.total_tokens
    )


def test_completions(client: openai.OpenAI) -> None:
    """Not streaming and streaming, with echo."""
    asked = {"model": "tiny", "prompt": "ab", "max_tokens": 6, "temperature": 0, "echo": True}
    whole = client.completions.create(**asked)
    assert whole.object == "text_completion"
    assert whole.choices[0].text.startswith("ab")
    streamed = "".join(
        chunk.choices[0].text for chunk in client.completions.create(**asked, stream=True)
    )
    assert streamed == whole.choices[0].text


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_are_those_of_the_sampled_tokens(client: openai.OpenAI, stream: bool) -> None:  # noqa: FBT001
    """Greedy: each token is the likeliest of its own alternatives (the engine misaligns them)."""
    answer = client.chat.completions.create(
        model="tiny", messages=HI, max_tokens=6, temperature=0, logprobs=True, top_logprobs=3,
        stream=stream,
    )  # fmt: skip
    choices = [chunk.choices[0] for chunk in answer] if stream else [answer.choices[0]]
    tokens = [token for choice in choices if choice.logprobs for token in choice.logprobs.content]
    assert len(tokens) == 6
    for token in tokens:
        assert len(token.top_logprobs) == 3
        assert token.top_logprobs[0].token == token.token
        assert token.top_logprobs[0].logprob == pytest.approx(token.logprob, abs=1e-3)
        assert token.logprob < 0


def test_sampled_logprobs_belong_to_what_was_sampled(client: openai.OpenAI) -> None:
    """At temperature 2 the sampled token is often not among the likeliest, and is still told."""
    answer = client.chat.completions.create(
        model="tiny", messages=HI, max_tokens=40, temperature=2, logprobs=True, top_logprobs=2,
        extra_body={"logit_bias": {"256": -100}},
    )  # fmt: skip
    tokens = answer.choices[0].logprobs.content
    assert len(tokens) == 40
    outside = [t for t in tokens if t.token not in {top.token for top in t.top_logprobs}]
    assert outside
    for token in outside:
        assert token.logprob <= min(top.logprob for top in token.top_logprobs) + 1e-3


def test_completion_logprobs_have_their_own_format(client: openai.OpenAI) -> None:
    """Tokens, their log probabilities, alternatives and offsets, side by side."""
    answer = client.completions.create(
        model="tiny", prompt="ab", max_tokens=4, temperature=0, logprobs=2
    )
    told = answer.choices[0].logprobs
    assert len(told.tokens) == len(told.token_logprobs) == len(told.top_logprobs) == 4
    assert told.text_offset[0] == 0


def test_stop_ends_where_the_text_begins(client: openai.OpenAI) -> None:
    """However it is tokenized: here the stop text lies across byte tokens."""
    asked = {"model": "tiny", "prompt": "ab", "max_tokens": 60, "temperature": 0}
    asked["logit_bias"] = {str(token): -100 for token in range(256) if not 65 <= token <= 90}
    whole = client.completions.create(**asked).choices[0].text
    stop = whole[7:10]
    stopped = client.completions.create(**asked, stop=[stop, "never"]).choices[0]
    assert stopped.text == whole[: whole.find(stop)]
    assert stopped.finish_reason == "stop"
    streamed = "".join(
        chunk.choices[0].text
        for chunk in client.completions.create(**asked, stop=stop, stream=True)
    )
    assert streamed == stopped.text


def test_what_a_stop_text_cuts_off_is_counted_by_tokens(
    client: openai.OpenAI, instance: Instance
) -> None:
    """Half an é is a token without text; the kept prefix is told, and in the metrics."""
    asked = {
        "model": "tiny", "prompt": "long enough to be kept", "max_tokens": 40, "temperature": 0,
        "frequency_penalty": 2, "logit_bias": {"195": 60, "169": 60, "90": 45},
    }  # fmt: skip
    whole = client.completions.create(**asked, logprobs=0).choices[0]
    tokens = whole.logprobs.tokens.index("Z") + 1
    assert tokens > len(whole.text[: whole.text.index("Z") + 1])
    before = instance.prefix_tokens()
    for scores in (None, 0):
        answer = client.completions.create(**asked, stop="Z", logprobs=scores)
        assert answer.choices[0].finish_reason == "stop"
        assert answer.usage.completion_tokens == tokens
        assert answer.usage.prompt_tokens_details.cached_tokens == answer.usage.prompt_tokens - 1
    looked_up, found = (
        now - then for now, then in zip(instance.prefix_tokens(), before, strict=True)
    )
    assert (looked_up, found) == (2 * answer.usage.prompt_tokens, looked_up - 2)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("first", ["256", "65"])
def test_the_prompt_is_echoed_where_nothing_follows(
    client: openai.OpenAI,
    first: str,
    stream: bool,  # noqa: FBT001
) -> None:
    """The end comes first, or a stop text."""
    asked = {"model": "tiny", "prompt": "ab", "logit_bias": {first: 100}, "stop": "A"}
    assert client.completions.create(**asked).choices[0].text == ""
    answer = client.completions.create(**asked, echo=True, stream=stream)
    chunks = list(answer) if stream else [answer]
    assert "".join(chunk.choices[0].text for chunk in chunks) == "ab"


def test_tools_are_taken_and_conversations_with_calls_go_on(client: openai.OpenAI) -> None:
    """A random model calls nothing; the template takes the tools, the call and its result."""
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    messages = [
        {"role": "developer", "content": "be brief"},
        *HI,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": "rain"}]},
    ]
    answer = client.chat.completions.create(
        model="tiny", messages=messages, tools=[WEATHER], max_tokens=3, parallel_tool_calls=False
    )
    with_tools = answer.usage.prompt_tokens
    without = client.chat.completions.create(
        model="tiny", messages=messages, tools=[WEATHER], tool_choice="none", max_tokens=3
    )
    assert without.usage.prompt_tokens < with_tools


def test_template_arguments_on_the_list_reach_the_template(client: openai.OpenAI) -> None:
    """``enable_thinking`` is the model's own switch, and changes its prompt."""

    def tokens(*, thinking: bool) -> int:
        return client.chat.completions.create(
            model="tiny", messages=HI, max_tokens=1,
            extra_body={"chat_template_kwargs": {"enable_thinking": thinking}},
        ).usage.prompt_tokens  # fmt: skip

    assert tokens(thinking=False) > tokens(thinking=True)


def test_its_own_exceptions_come_out(client: openai.OpenAI, instance: Instance) -> None:
    """Where OpenAI's service would raise them, with its fields."""
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt-5", messages=HI)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as wrong:
        client.chat.completions.create(model="tiny", messages=HI, temperature=3)
    assert wrong.value.param == "temperature"
    with pytest.raises(openai.BadRequestError) as long:
        client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "x" * 5000}]
        )
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="tiny", input="x")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-5")
    assert client.models.retrieve("tiny").id == "tiny"
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert instance.state()["state"] == "ready"


def test_the_log_has_a_line_for_each_request_and_no_words(
    client: openai.OpenAI, instance: Instance
) -> None:
    """Counts and times; neither the prompt nor the answer, whatever the outcome."""
    secret = "a sentence that nobody should read"
    answer = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": secret}], max_tokens=2, temperature=0,
        extra_headers={"x-request-id": "mine-1"},
    )  # fmt: skip
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": secret}], temperature=9
        )
    (line,) = [entry for entry in instance.requests_logged() if entry["id"] == "mine-1"]
    assert line["outcome"] == "ok"
    assert line["prompt_tokens"] == answer.usage.prompt_tokens
    assert line["generated_tokens"] == 2
    assert secret not in instance.log()


def test_the_metrics_have_vllms_names(client: openai.OpenAI, instance: Instance) -> None:
    """A dashboard made for vLLM finds its series here."""
    client.chat.completions.create(model="tiny", messages=HI, max_tokens=2, temperature=0)
    text = instance.client.get("/metrics").text
    for name in (
        "vllm:num_requests_running{", "vllm:num_requests_waiting{", "vllm:prompt_tokens_total{",
        "vllm:generation_tokens_total{", "vllm:time_to_first_token_seconds_bucket{",
        "vllm:inter_token_latency_seconds_bucket{", "vllm:e2e_request_latency_seconds_bucket{",
        "vllm:request_success_total{", 'mlx_guard_state{state="ready"} 1.0',
        'mlx_guard_engine_memory_bytes{kind="active"}', "mlx_guard_prompts_miscounted_total 0.0",
    ):  # fmt: skip
        assert name in text, name


def test_the_engine_was_never_asked_for_what_it_miscounts(instance: Instance) -> None:
    """The guard's count of every prompt of this module was the engine's own."""
    text = instance.client.get("/metrics").text
    assert "mlx_guard_prompts_miscounted_total 0.0" in text
