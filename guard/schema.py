"""OpenAI's two completion requests, as far as they are served (what is not: fields.py)."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    ValidationError,
    model_validator,
)

from guard.errors import bad_request

# Of a body of megabytes every mistake would be collected, for a second a megabyte and 400 MB of
# memory: lists are given up at the first one (`fail_fast`).
MAX_MESSAGES = 16_384  # of one conversation
MAX_SEQUENCES = 16  # of one request: choices times prompts
MAX_STOPS = 4  # OpenAI's limit


class Strict(BaseModel):
    """No coercion, no unknown keys; a null means that the key is absent."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: Any) -> Any:  # noqa: ANN401 - any JSON
        if isinstance(value, dict):
            given = {key: inner for key, inner in value.items() if inner is not None}
            if len(given) > len(cls.model_fields):
                unknown = next(key for key in given if key not in cls.model_fields)
                raise ValueError(f"`{unknown[:200]}` is not known here")
            return given
        return value


def _at_most(items: int) -> BeforeValidator:
    """Refuse a larger object before its values are looked at, all of which might be wrong."""

    def check(value: Any) -> Any:  # noqa: ANN401 - any JSON
        if isinstance(value, dict) and len(value) > items:
            raise ValueError(f"at most {items} keys, not {len(value)}")
        return value

    return BeforeValidator(check)


Text = str
NonEmpty = Annotated[str, StringConstraints(min_length=1)]
FunctionName = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]


def _arguments(text: str) -> str:
    """The engine parses them, and templates walk them as a mapping."""
    try:
        value = json.loads(text)
        # Python's reader takes NaN, and half a character, which nobody can encode.
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        raise ValueError("tool call arguments must be JSON") from None
    if not isinstance(value, dict):
        raise ValueError("tool call arguments must be a JSON object")  # noqa: TRY004 - pydantic's
    return text


class TextPart(Strict):
    type: Literal["text"]
    text: Text


class RefusalPart(Strict):
    type: Literal["refusal"]
    refusal: Text


Content = Text | Annotated[list[TextPart], Field(min_length=1, fail_fast=True)]


class CalledFunction(Strict):
    name: FunctionName
    arguments: Annotated[str, AfterValidator(_arguments)]


class ToolCall(Strict):
    id: NonEmpty
    type: Literal["function"]
    function: CalledFunction
    index: int | None = Field(default=None, exclude=True)
    """OpenAI's client keeps it in what it puts together of a stream; nobody here reads it."""


class InstructionMessage(Strict):
    role: Literal["system", "developer"]
    content: Content
    name: NonEmpty | None = None


class UserMessage(Strict):
    role: Literal["user"]
    content: Content
    name: NonEmpty | None = None


class AssistantMessage(Strict):
    role: Literal["assistant"]
    content: (
        Text
        | Annotated[
            list[Annotated[TextPart | RefusalPart, Field(discriminator="type")]],
            Field(min_length=1, fail_fast=True),
        ]
        | None
    ) = None
    name: NonEmpty | None = None
    refusal: Text | None = None
    reasoning: Text | None = None
    reasoning_content: Text | None = None
    tool_calls: Annotated[list[ToolCall], Field(min_length=1, fail_fast=True)] | None = None
    annotations: list[Any] | None = Field(default=None, max_length=0, exclude=True)
    """Of OpenAI's own answers, which have no web search; nobody here reads it."""

    @model_validator(mode="after")
    def _says_something(self) -> AssistantMessage:
        if self.content is None and self.tool_calls is None and self.refusal is None:
            raise ValueError("an assistant message needs content or tool_calls")
        return self


class ToolMessage(Strict):
    role: Literal["tool"]
    content: Content
    tool_call_id: NonEmpty
    name: Text | None = Field(default=None, exclude=True)
    """Some clients say whose result it is; the call has the name."""


def _role(value: Any) -> str:  # noqa: ANN401 - any JSON
    role = value.get("role") if isinstance(value, dict) else None
    return "system" if role == "developer" else str(role)


Message = Annotated[
    Annotated[InstructionMessage, Tag("system")]
    | Annotated[UserMessage, Tag("user")]
    | Annotated[AssistantMessage, Tag("assistant")]
    | Annotated[ToolMessage, Tag("tool")],
    Discriminator(_role),
]


def _not_strict(strict: bool) -> bool:  # noqa: FBT001 - pydantic's
    if strict:
        raise ValueError("the engine cannot hold a call's arguments to a schema")
    return strict


class Function(Strict):
    name: FunctionName
    description: Text | None = None
    parameters: dict[str, Any] | None = None
    strict: Annotated[bool, AfterValidator(_not_strict)] | None = None


class Tool(Strict):
    type: Literal["function"]
    function: Function


class StreamOptions(Strict):
    include_usage: bool = False
    include_obfuscation: bool = False  # there is none to leave out


class TemplateArguments(Strict):
    enable_thinking: bool | None = None
    thinking: bool | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None


Stop = NonEmpty | Annotated[list[NonEmpty], Field(max_length=MAX_STOPS)]
Penalty = Annotated[float, Field(ge=-2, le=2)]


class Request(Strict):
    model: Text
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Field(ge=0, le=1)] = 1.0
    n: Annotated[int, Field(ge=1, le=MAX_SEQUENCES)] = 1
    stop: Stop | None = None
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    logit_bias: (
        Annotated[dict[str, Annotated[float, Field(ge=-100, le=100)]], _at_most(1024)] | None
    ) = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    user: Text | None = None
    top_k: Annotated[int, Field(ge=0, le=1000)] = 0
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    repetition_penalty: Annotated[float, Field(gt=0, le=2)] = 1.0

    @property
    def stops(self) -> tuple[str, ...]:
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    @model_validator(mode="after")
    def _stream_options_need_a_stream(self) -> Request:
        if self.stream_options is not None and not self.stream:
            raise ValueError("`stream_options` is only allowed with `stream`")
        return self


class ChatRequest(Request):
    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=10)] = 0
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    tool_choice: Literal["auto", "none"] = "auto"
    parallel_tool_calls: bool = True
    chat_template_kwargs: TemplateArguments | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    metadata: Annotated[dict[str, Text], _at_most(16)] | None = None  # OpenAI's limit
    prompt_cache_key: Text | None = None
    prompt_cache_retention: Text | None = None
    prompt_cache_options: dict[str, Any] | None = None
    safety_identifier: Text | None = None

    @model_validator(mode="after")
    def _top_logprobs_need_logprobs(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("`top_logprobs` is only allowed with `logprobs`")
        return self


TokenIds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, fail_fast=True)]


class CompletionRequest(Request):
    prompt: (
        NonEmpty
        | Annotated[list[NonEmpty], Field(min_length=1, max_length=MAX_SEQUENCES)]
        | TokenIds
        | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_SEQUENCES)]
    )
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    echo: bool = False

    @model_validator(mode="after")
    def _one_prompt_at_a_time(self) -> CompletionRequest:
        if self.echo and self.logprobs is not None:
            raise ValueError("`echo` with `logprobs` is not supported: prompts are not scored")
        if len(self.prompts) * self.n > MAX_SEQUENCES:
            raise ValueError(f"prompts times `n` must not exceed {MAX_SEQUENCES}")
        return self

    @property
    def prompts(self) -> list[str | list[int]]:
        match self.prompt:
            case str(text):
                return [text]
            case [int(), *_]:
                return [[token for token in self.prompt if isinstance(token, int)]]
            case several:
                return [one for one in several if not isinstance(one, int)]


def check_chat(body: dict[str, Any]) -> ChatRequest:
    """Raises Refusal (400) that names the first field that is wrong, and all of them in words."""
    try:
        return ChatRequest.model_validate(body)
    except ValidationError as error:
        raise _refusal(error) from None


def check_completion(body: dict[str, Any]) -> CompletionRequest:
    """Raises Refusal (400), as ``check_chat``."""
    try:
        return CompletionRequest.model_validate(body)
    except ValidationError as error:
        raise _refusal(error) from None


def _refusal(error: ValidationError) -> Exception:
    mistakes = error.errors(include_url=False, include_input=False)
    first = ".".join(map(str, mistakes[0]["loc"]))
    words = "; ".join(
        f"`{'.'.join(map(str, mistake['loc']))}`: {mistake['msg']}"
        if mistake["loc"]
        else mistake["msg"]
        for mistake in mistakes[:5]
    )
    return bad_request(words, param=first or None)
