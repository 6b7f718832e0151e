"""HTTP/1.0 to the engine on its unix socket, one connection a request.

HTTP/1.0 on purpose: whatever the engine, the answer then ends where the connection does, so a
stream is read line by line with nothing to parse, and closing the connection is how a request is
called off.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

LINE_LIMIT = 1 << 20  # one event of a stream; a whole tool call can stand in one


class UpstreamError(Exception):
    """The engine did not answer as HTTP, or the connection broke."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    reader: asyncio.StreamReader

    async def read(self) -> bytes:
        """All that is left of the body; raises UpstreamError."""
        try:
            return await self.reader.read(-1)
        except OSError as error:
            raise UpstreamError(f"the engine broke off: {error}") from error

    async def block(self) -> bytes:
        """The next event of a stream with its blank line, empty at the end; UpstreamError."""
        try:
            return await self.reader.readuntil(b"\n\n")
        except asyncio.IncompleteReadError as error:
            if error.partial:
                raise UpstreamError("the engine broke off within an event") from error
            return b""
        except (OSError, asyncio.LimitOverrunError) as error:
            raise UpstreamError(f"the engine's stream broke: {error!r}") from error


@asynccontextmanager
async def request(
    socket: str, method: str, path: str, body: bytes = b"", *, gate: asyncio.Semaphore | None = None
) -> AsyncIterator[Answer]:
    """Send one request; leaving the block closes the connection, which calls the request off.

    ``gate`` bounds how many connections are being opened at once (the engine's backlog is 5).
    Raises UpstreamError when there is no answer to read.
    """
    try:
        if gate is None:
            reader, writer = await asyncio.open_unix_connection(socket, limit=LINE_LIMIT)
        else:
            async with gate:
                reader, writer = await asyncio.open_unix_connection(socket, limit=LINE_LIMIT)
    except OSError as error:
        raise UpstreamError(f"the engine takes no connection: {error}") from error
    try:
        head = (
            f"{method} {path} HTTP/1.0\r\nHost: localhost\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        try:
            await writer.drain()
            status = await _status(reader)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            raise UpstreamError(f"the engine broke off before it answered: {error!r}") from error
        yield Answer(status, reader)
    finally:
        writer.close()


async def _status(reader: asyncio.StreamReader) -> int:
    line = await reader.readline()
    words = line.split(None, 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():  # noqa: PLR2004
        raise UpstreamError(f"the engine answered no HTTP: {line[:80]!r}")
    while (header := await reader.readline()) not in {b"\r\n", b"\n"}:
        if not header:
            raise UpstreamError("the engine broke off within its headers")
    return int(words[1])
