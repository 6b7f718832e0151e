"""Events as OpenAI's answers: chunks of a stream, or one object."""

from __future__ import annotations

import json
import math
import time
import uuid
from dataclasses import dataclass, field
from typing import Any, Literal

from guard.ask import Delta, Scored, Usage

Kind = Literal["chat", "text"]
NEVER = -9999.0  # OpenAI's own stand-in for a log probability of minus infinity
DONE = b"data: [DONE]\n\n"
ALIVE = b": alive\n\n"


@dataclass(slots=True, kw_only=True)
class Choice:
    """One sequence: collected as it grows, or on a stream no more than its end needs."""

    index: int
    offset: int = 0
    """On a stream: characters of the scored tokens said so far."""
    text: str = ""
    reasoning: str = ""
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    finish: str | None = None
    usage: Usage | None = None

    def add(self, delta: Delta, logprobs: list[dict[str, Any]]) -> None:
        self.text += delta.text
        self.reasoning += delta.reasoning
        self.tool_calls += [without_index(call) for call in delta.tool_calls]
        self.logprobs += logprobs


def without_index(call: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in call.items() if key != "index"}


@dataclass(slots=True, kw_only=True)
class Rendering:
    """What is the same in every part of one answer."""

    kind: Kind
    model: str
    fingerprint: str
    id: str = ""
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        self.id = f"{'chatcmpl' if self.kind == 'chat' else 'cmpl'}-{uuid.uuid4().hex}"

    def _object(self, name: str, **more: Any) -> dict[str, Any]:  # noqa: ANN401 - any JSON
        return {
            "id": self.id,
            "object": name,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            **more,
        }

    def _chunk(self, choices: list[dict[str, Any]], **more: Any) -> bytes:  # noqa: ANN401
        name = "chat.completion.chunk" if self.kind == "chat" else "text_completion"
        return b"data: %b\n\n" % _dump(self._object(name, choices=choices, **more))

    def first(self, index: int) -> bytes:
        """OpenAI's opening chunk of a chat: the role, and no text."""
        if self.kind == "text":
            return b""
        delta = {"role": "assistant", "content": ""}
        return self._chunk(
            [{"index": index, "delta": delta, "logprobs": None, "finish_reason": None}]
        )

    def part(
        self, index: int, delta: Delta, logprobs: list[dict[str, Any]] | None, *, offset: int
    ) -> bytes:
        """``offset`` is where in the choice's text its first token begins."""
        choice: dict[str, Any] = {"index": index, "logprobs": None, "finish_reason": None}
        if self.kind == "text":
            choice["text"] = delta.text
            choice["logprobs"] = None if logprobs is None else _legacy(logprobs, offset)
            return self._chunk([choice])
        inner: dict[str, Any] = {}
        if delta.text:
            inner["content"] = delta.text
        if delta.reasoning:
            inner["reasoning"] = delta.reasoning
        if delta.tool_calls:
            inner["tool_calls"] = list(delta.tool_calls)
        choice["delta"] = inner
        choice["logprobs"] = None if logprobs is None else {"content": logprobs, "refusal": None}
        return self._chunk([choice])

    def last(self, index: int, reason: str) -> bytes:
        choice: dict[str, Any] = {"index": index, "logprobs": None, "finish_reason": reason}
        if self.kind == "text":
            choice["text"] = ""
        else:
            choice["delta"] = {}
        return self._chunk([choice])

    def usage(self, choices: list[Choice], prompts: int) -> bytes:
        return self._chunk([], usage=_usage(choices, prompts))

    def whole(self, choices: list[Choice], prompts: int, *, scored: bool) -> bytes:
        """``prompts`` is how many different prompts the choices answer."""
        rendered = [
            self._whole_chat(choice, scored=scored)
            if self.kind == "chat"
            else {
                "index": choice.index,
                "text": choice.text,
                "logprobs": _legacy(choice.logprobs, 0) if scored else None,
                "finish_reason": choice.finish,
            }
            for choice in choices
        ]
        name = "chat.completion" if self.kind == "chat" else "text_completion"
        return _dump(self._object(name, choices=rendered, usage=_usage(choices, prompts)))

    @staticmethod
    def _whole_chat(choice: Choice, *, scored: bool) -> dict[str, Any]:
        message: dict[str, Any] = {
            "role": "assistant",
            "content": choice.text or (None if choice.tool_calls else ""),
            "refusal": None,
        }
        if choice.reasoning:
            message["reasoning"] = choice.reasoning
        if choice.tool_calls:
            message["tool_calls"] = choice.tool_calls
        return {
            "index": choice.index,
            "message": message,
            "logprobs": {"content": choice.logprobs, "refusal": None} if scored else None,
            "finish_reason": choice.finish,
        }


def logprob(piece: str, scored: Scored, tops: list[str]) -> dict[str, Any]:
    """One token of OpenAI's ``logprobs.content``."""
    return _token(piece, scored.logprob) | {
        "top_logprobs": [
            _token(top, value)
            for top, (_, value) in sorted(
                zip(tops, scored.top, strict=True), key=lambda pair: -pair[1][1]
            )
        ]
    }


def _token(piece: str, value: float) -> dict[str, Any]:
    return {
        "token": piece,
        "logprob": value if math.isfinite(value) else NEVER,
        # Of a part of a character the piece is U+FFFD, and which bytes those are nobody can tell.
        "bytes": None if "\ufffd" in piece else list(piece.encode()),
    }


def _legacy(logprobs: list[dict[str, Any]], at: int) -> dict[str, Any]:
    """The format of completions, from that of chats; the first token begins ``at``."""
    offsets = []
    for token in logprobs:
        offsets.append(at)
        at += len(token["token"])
    return {
        "tokens": [token["token"] for token in logprobs],
        "token_logprobs": [token["logprob"] for token in logprobs],
        "top_logprobs": [
            {top["token"]: top["logprob"] for top in token["top_logprobs"]} for token in logprobs
        ],
        "text_offset": offsets,
    }


def _usage(choices: list[Choice], prompts: int) -> dict[str, Any]:
    """Each prompt counts once, however many choices answer it (as OpenAI counts)."""
    each = max(1, len(choices) // max(1, prompts))
    prompt = sum(choice.usage.prompt for choice in choices[::each] if choice.usage)
    cached = sum(choice.usage.cached for choice in choices[::each] if choice.usage)
    completion = sum(choice.usage.completion for choice in choices if choice.usage)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode  # made once


def _dump(value: object) -> bytes:
    return _encode(value).encode()
