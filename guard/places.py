"""Places in front of the engine: so many sequences run, so many requests wait, in order."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from guard.errors import Refusal

LONGEST_ADVICE_S = 60


class Places:
    def __init__(self, *, running: int, waiting: int) -> None:
        self._capacity = running
        self._room = waiting
        self._semaphore = asyncio.Semaphore(running)
        self._mean_s = 1.0  # of the time a place is held, for the advice to those turned away
        self.waiting = 0
        self.running = 0

    def turn_away_if_full(self) -> None:
        """Raises Refusal (429) with an advice when to come again."""
        if self._semaphore.locked() and self.waiting >= self._room:
            wait = math.ceil(self._mean_s * (self.waiting + 1) / self._capacity)
            raise Refusal(
                429,
                f"{self.running} requests are running and {self.waiting} waiting; come again later",
                code="overloaded",
                retry_after=max(1, min(LONGEST_ADVICE_S, wait)),
            )

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        self.waiting += 1
        try:
            await self._semaphore.acquire()
        finally:
            self.waiting -= 1
        self.running += 1
        loop = asyncio.get_running_loop()
        since = loop.time()
        try:
            yield
        finally:
            self._mean_s += 0.1 * (loop.time() - since - self._mean_s)
            self.running -= 1
            self._semaphore.release()
