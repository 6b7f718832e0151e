"""Places in front of the engine: so many sequences run, so many requests wait, in order."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from guard.errors import Refusal

LONGEST_ADVICE_S = 60


class Places:
    def __init__(self, *, running: int, waiting: int) -> None:
        self._capacity = running
        self._room = running + waiting
        self._admitted = 0
        self._semaphore = asyncio.Semaphore(running)
        self._mean_s = 1.0  # of the time a place is held, for the advice to those turned away
        self.running = 0

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Room for one more request, from before its prompt is counted to its end.

        Raises Refusal (429) with an advice when to come again.
        """
        if self._admitted >= self._room:
            wait = math.ceil(self._mean_s * (self._admitted - self._capacity + 1) / self._capacity)
            raise Refusal(
                429,
                f"{self._admitted} requests are running or waiting; come again later",
                code="overloaded",
                retry_after=max(1, min(LONGEST_ADVICE_S, wait)),
            )
        self._admitted += 1
        try:
            yield
        finally:
            self._admitted -= 1

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """One sequence's, in the order in which they are asked for."""
        await self._semaphore.acquire()
        self.running += 1
        loop = asyncio.get_running_loop()
        since = loop.time()
        try:
            yield
        finally:
            self._mean_s += 0.1 * (loop.time() - since - self._mean_s)
            self.running -= 1
            self._semaphore.release()
