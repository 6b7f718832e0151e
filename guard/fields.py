"""Every field of OpenAI's two completion requests, and what becomes of it.

This table is read three ways: the door refuses what it says is refused, a test holds it against
the schema and OpenAI's own client, and docs/guard.md shows it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from guard.errors import bad_request

Fate = Literal["passed", "translated", "done", "dropped", "refused"]


@dataclass(frozen=True, slots=True)
class Field:
    fate: Fate
    why: str
    harmless: tuple[object, ...] = ()
    """Values of a refused field that ask for nothing, so that they pass."""

    def is_harmless(self, value: object) -> bool:
        """With its type: Python's ``True == 1`` is not JSON's."""
        return any(type(value) is type(one) and value == one for one in self.harmless)


COMMON: dict[str, Field] = {
    "model": Field("done", "must be the served name (else 404); the engine never sees it"),
    "stream": Field("done", "the engine is always asked to stream, so that every token is a sign"),
    "stream_options": Field(
        "done", "`include_usage`: the engine's own count (the guard's after a stop text)"
    ),
    "max_tokens": Field("passed", "absent: what the context leaves (chat), 16 (completions)"),
    "temperature": Field("translated", "absent: 1; below 0.001 greedy; rounded to 0.01"),
    "top_p": Field(
        "translated", "absent: 1; below 0.001 greedy (the engine reads 0 as off); rounded to 0.001"
    ),
    "n": Field(
        "done", "as many sequences, each in a place of its own; prompts times `n`: at most 16"
    ),
    "stop": Field(
        "done", "at most 4; the engine strips a stop text it tokenizes differently, and goes on"
    ),
    "presence_penalty": Field("translated", "over the last 256 tokens (the engine's own are 20)"),
    "frequency_penalty": Field("translated", "over the last 256 tokens (the engine's own are 20)"),
    "logit_bias": Field(
        "passed", "at most 1024 token ids, of the vocabulary only: others crash the engine"
    ),
    "seed": Field("dropped", "the engine serves seeded requests alone and reseeds everybody"),
    "user": Field("dropped", "nobody here reads it"),
    "top_k": Field("passed", "not OpenAI's; 0 to 1000, below the vocabulary's size"),
    "min_p": Field("translated", "not OpenAI's; 0 to 1; rounded to 0.001"),
    "repetition_penalty": Field(
        "translated", "not OpenAI's; above 0, at most 2; over the last 256 tokens, as the others"
    ),
}

CHAT: dict[str, Field] = COMMON | {
    "messages": Field(
        "translated",
        "text only, parts joined; `developer` becomes `system`; arguments must be a JSON object",
    ),
    "max_completion_tokens": Field("passed", "wins over `max_tokens`"),
    "logprobs": Field(
        "done", "on streams too; `bytes` are null where the token has U+FFFD (part of a character)"
    ),
    "top_logprobs": Field("done", "0 to 10 (the engine's limit), aligned with the sampled tokens"),
    "tools": Field(
        "passed",
        "400 where the model's template knows none, and for `strict: true` (which the SDK's "
        "`pydantic_function_tool` sets): the engine cannot hold a call's arguments to a schema",
    ),
    "tool_choice": Field(
        "done", "`none` takes the tools away; forcing a call is refused", ("auto", "none")
    ),
    "parallel_tool_calls": Field("done", "false: the first call is passed on, the others are not"),
    "chat_template_kwargs": Field(
        "passed",
        "`enable_thinking`, `thinking` and `reasoning_effort`; 400 if the template takes none",
    ),
    "reasoning_effort": Field("translated", "to the template's argument; 400 if it takes none"),
    "response_format": Field(
        "refused", "the engine cannot constrain what it generates", ({"type": "text"},)
    ),
    "audio": Field("refused", "the engine generates text only"),
    "modalities": Field("refused", "the engine generates text only", (["text"],)),
    "functions": Field("refused", "deprecated by OpenAI: use `tools`", ([],)),
    "function_call": Field("refused", "deprecated by OpenAI: use `tool_choice`", ("none", "auto")),
    "prediction": Field("refused", "the engine has no predicted outputs"),
    "web_search_options": Field("refused", "an instance has no network"),
    "moderation": Field("refused", "nothing here moderates"),
    "store": Field("refused", "nothing is kept", (False,)),
    "verbosity": Field("refused", "no model here takes it", ("medium",)),
    "metadata": Field("dropped", "belongs to `store`"),
    "service_tier": Field("refused", "there is one tier", ("auto", "default")),
    "prompt_cache_key": Field("dropped", "a hint; prefixes are found without it"),
    "prompt_cache_retention": Field("dropped", "a hint; the plan decides what is kept"),
    "prompt_cache_options": Field("dropped", "a hint; the plan decides what is kept"),
    "safety_identifier": Field("dropped", "nobody here reads it"),
}

COMPLETION: dict[str, Field] = COMMON | {
    "prompt": Field(
        "translated",
        "a text, texts, tokens or lists of tokens (as their text); each its own sequence",
    ),
    "logprobs": Field("done", "0 to 5, in the format of completions"),
    "echo": Field("done", "the prompt before the answer; refused together with `logprobs`"),
    "best_of": Field("refused", "generate with `n` and choose", (1,)),
    "suffix": Field("refused", "the engine does not fill in", ("",)),
}


def refuse_what_is_refused(body: dict[str, Any], table: dict[str, Field]) -> dict[str, Any]:
    """The body without nulls (they mean absent) and without what asks for nothing.

    Raises Refusal for an unknown or refused field, naming it.
    """
    kept = {}
    for name, value in body.items():
        if value is None:
            continue
        field = table.get(name)
        if field is None:
            raise bad_request(f"unrecognized request argument: `{name[:80]}`", param=name[:80])
        if (field.fate == "refused" or field.harmless) and not field.is_harmless(value):
            raise bad_request(f"`{name}` is not supported with this value: {field.why}", param=name)
        if field.fate != "refused":
            kept[name] = value
    return kept
