"""Whether the engine's generation thread lives: its own word, asked at intervals."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from guard.ask import EngineBroke


class Pulse:
    def __init__(
        self, ask: Callable[[], Awaitable[bool]], *, every_s: float, patience_s: float
    ) -> None:
        self._ask = ask
        self._every_s = every_s
        self._patience_s = patience_s
        self._asked = 0.0
        self._question: asyncio.Task[bool] | None = None

    def feel(self, now: float, *, at_once: bool) -> str | None:
        """What is wrong, in words; never waits.  ``at_once`` asks before its turn."""
        if self._question is not None and self._question.done():
            question, self._question = self._question, None
            try:
                if not question.result():
                    return "the engine's generation thread died"
            except EngineBroke as error:
                return f"the engine's HTTP server is gone: {error}"
        if self._question is None and (at_once or now - self._asked > self._every_s):
            self._question, self._asked = asyncio.ensure_future(self._ask()), now
        if self._question is not None and now - self._asked > self._patience_s:
            return "the engine does not answer whether it lives"
        return None

    def close(self) -> None:
        if self._question is not None:
            self._question.cancel()
