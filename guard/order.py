"""One request from the moment it comes in until its line in the log."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import dataclass, field

from guard.errors import Refusal
from guard.vitals import Stream


@dataclass(slots=True, eq=False)
class Order:
    """What is known about one request, without a word of its prompt or its answer."""

    id: str
    path: str
    began: float = field(default_factory=time.monotonic)
    body: bytes = field(default=b"", repr=False)
    task: asyncio.Task[None] | None = None
    verdict: Refusal | None = None
    outcome: str = ""
    streams: list[Stream] = field(default_factory=list)
    blocked_since: float | None = None
    """Since when nobody takes more of its answer: its client, or who waits for the tokenizer."""
    unread_since: float | None = None
    """The same, by its client."""
    streaming: bool = False
    choices: int = 1
    prompt_tokens: int = 0
    cached_tokens: int = 0
    tokens: int = 0
    queue_s: float = 0.0
    first_token_s: float | None = None
    finish: str = ""

    def take_body(self) -> bytes:
        """Its megabytes are nobody's once they were read."""
        body, self.body = self.body, b""
        return body

    def blocked(self, since: float | None) -> None:
        self.blocked_since = since
        for stream in self.streams:
            stream.blocked_since = since

    def unread(self, since: float | None) -> None:
        self.unread_since = since
        self.blocked(since)

    def abort(self, verdict: Refusal, outcome: str) -> None:
        """End it from outside: its client gets ``verdict``."""
        if self.verdict is None and self.task is not None and not self.task.done():
            self.verdict, self.outcome = verdict, outcome
            self.task.cancel()

    def log(self, status: int) -> None:
        line = {
            "event": "request",
            "id": self.id,
            "path": self.path,
            "status": status,
            "outcome": self.outcome,
            "stream": self.streaming,
            "choices": self.choices,
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "generated_tokens": self.tokens,
            "finish": self.finish,
            "queue_s": round(self.queue_s, 3),
            "first_token_s": None if self.first_token_s is None else round(self.first_token_s, 3),
            "total_s": round(time.monotonic() - self.began, 3),
        }
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
