"""The events of an answer, written to a stream or collected for one object."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from guard.ask import Delta, Event, Finish, Progress, Scored, Usage
from guard.render import ALIVE, Choice, Rendering, logprob
from guard.reply import Reply
from guard.tokenizer import Tokenizer


class Writer:
    """Writes the events of all choices to a stream, or collects them."""

    def __init__(
        self,
        answer: Rendering,
        choices: list[Choice],
        reply: Reply | None,
        tokenizer: Tokenizer,
        blocked: Callable[[float | None], None],
        *,
        scored: bool,
    ) -> None:
        self._answer = answer
        self._choices = choices
        self._reply = reply
        self._tokenizer = tokenizer
        self._blocked = blocked
        self._scored = scored
        self._begun: set[int] = set()

    async def take(self, index: int, event: Event) -> None:
        choice = self._choices[index]
        match event:
            case Progress():
                await self._alive(index)
            case Delta():
                logprobs = await self._logprobs(event.scored) if self._scored else None
                if self._reply is None:
                    choice.add(event, logprobs or [])
                else:
                    part = self._answer.part(index, event, logprobs, offset=choice.offset)
                    choice.offset += sum(len(token["token"]) for token in logprobs or ())
                    await self._say(index, part)
            case Finish():
                choice.finish = event.reason
                if self._reply is not None:
                    await self._say(index, self._answer.last(index, event.reason))
            case Usage():
                choice.usage = event

    async def _logprobs(self, scored: Sequence[Scored]) -> list[dict[str, Any]]:
        # The tokenizer may be busy with others' prompts: nobody reads the engine's signs meanwhile.
        self._blocked(time.monotonic())
        try:
            pieces = await self._tokenizer.pieces([token.token for token in scored])
            return [
                logprob(piece, token, await self._tokenizer.pieces([top for top, _ in token.top]))
                for piece, token in zip(pieces, scored, strict=True)
            ]
        finally:
            self._blocked(None)

    async def _alive(self, index: int) -> None:
        """Before the first token a comment for whoever watches the connection; then nothing."""
        if self._reply is not None and index not in self._begun:
            if not self._reply.streaming:
                await self._reply.begin_stream()
            await self._reply.part(ALIVE)

    async def _say(self, index: int, data: bytes) -> None:
        assert self._reply is not None  # noqa: S101 - the callers' condition
        if not self._reply.streaming:
            await self._reply.begin_stream()
        if index not in self._begun:
            self._begun.add(index)
            data = self._answer.first(index) + data
        await self._reply.part(data)
