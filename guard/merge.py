"""Several sequences of one request as one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from guard.ask import Event

BUFFER = 64  # events between the sequences and their client


async def merged(sequences: list[AsyncGenerator[Event]]) -> AsyncGenerator[tuple[int, Event]]:
    """Events as they come, each with its sequence's number; leaving calls all of them off."""
    several = _alone(sequences[0]) if len(sequences) == 1 else _several(sequences)
    async with aclosing(several) as events:
        async for pair in events:
            yield pair


async def _alone(events: AsyncGenerator[Event]) -> AsyncGenerator[tuple[int, Event]]:
    async with aclosing(events) as open_events:
        async for event in open_events:
            yield 0, event


async def _several(sequences: list[AsyncGenerator[Event]]) -> AsyncGenerator[tuple[int, Event]]:
    """Events of several sequences as they come; leaving calls all of them off."""
    queue: asyncio.Queue[tuple[int, Event | BaseException | None]] = asyncio.Queue(BUFFER)

    async def run(index: int, events: AsyncGenerator[Event]) -> None:
        try:
            async with aclosing(events) as open_events:
                async for event in open_events:
                    await queue.put((index, event))
        except Exception as error:  # noqa: BLE001 - handed to the reader, which raises it
            await queue.put((index, error))
        else:
            await queue.put((index, None))

    tasks = [asyncio.create_task(run(*pair)) for pair in enumerate(sequences)]
    try:
        left = len(tasks)
        while left:
            index, event = await queue.get()
            if event is None:
                left -= 1
            elif isinstance(event, BaseException):
                raise event
            else:
                yield index, event
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
