"""What an engine is asked for, and what it says back: no engine's words and no client's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One sequence to generate.  Either ``messages`` (a chat) or ``prompt`` (a text) is given."""

    messages: list[dict[str, Any]] | None = None
    prompt: str | None = None
    tools: list[dict[str, Any]] | None = None
    template_arguments: dict[str, Any] = field(default_factory=dict)
    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = field(default_factory=dict)
    logprobs: bool = False
    """Whether Deltas have scores: for the client, or to count the tokens before a stop text."""
    top_logprobs: int = 0


@dataclass(frozen=True, slots=True)
class Scored:
    """One sampled token, its log probability, and the likeliest in its place (id, log p)."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Progress:
    """The engine lives: a token that made no text, or of the ``total`` prompt tokens that it did
    not have kept, ``done`` are processed."""

    done: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class Delta:
    """More of the answer.  ``tool_calls`` in OpenAI's form, whole calls."""

    text: str = ""
    reasoning: str = ""
    tool_calls: tuple[dict[str, Any], ...] = ()
    scored: tuple[Scored, ...] = ()


@dataclass(frozen=True, slots=True)
class Finish:
    """``stop``, ``length`` or ``tool_calls``."""

    reason: str


@dataclass(frozen=True, slots=True)
class Usage:
    """The engine's own count of tokens, or the guard's where a stop text cut the answer."""

    prompt: int
    completion: int
    cached: int = 0


Event = Progress | Delta | Finish | Usage


class EngineBroke(Exception):  # noqa: N818 - what happened, as a clause
    """The engine broke off, answered an error, or said what cannot be understood."""
