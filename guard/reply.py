"""One HTTP answer, over ASGI."""

from __future__ import annotations

import time
from collections.abc import Callable

from guard.door import Send
from guard.errors import Refusal


class Reply:
    """Says either one object or a stream; remembers which, and whether the client keeps up."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._id = request_id.encode()
        self.status = 0
        self.streaming = False
        self.ended = False
        self.on_block: Callable[[float | None], None] = lambda _: None

    async def whole(
        self,
        status: int,
        body: bytes,
        *,
        kind: bytes = b"application/json",
        retry_after: int = 0,
        allow: str = "",
    ) -> None:
        headers = [
            (b"content-type", kind),
            (b"content-length", b"%d" % len(body)),
            (b"x-request-id", self._id),
        ]
        if retry_after:
            headers.append((b"retry-after", b"%d" % retry_after))
        if allow:
            headers.append((b"allow", allow.encode()))
        self.status = status
        self.ended = True
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})

    async def begin_stream(self) -> None:
        self.status, self.streaming = 200, True
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),
            (b"x-request-id", self._id),
        ]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def part(self, data: bytes) -> None:
        """More of the stream; waits while the client's buffer is full."""
        self.on_block(time.monotonic())
        await self._send({"type": "http.response.body", "body": data, "more_body": True})
        self.on_block(None)

    async def end_stream(self) -> None:
        self.ended = True
        await self._send({"type": "http.response.body", "body": b""})

    async def refuse(self, refusal: Refusal) -> None:
        """An error in OpenAI's format, within the stream if one has begun."""
        if self.ended:
            return
        if self.streaming:
            await self.part(b"data: %b\n\n" % refusal.body())
            await self.end_stream()
        else:
            await self.whole(
                refusal.status,
                refusal.body(),
                retry_after=refusal.retry_after or 0,
                allow=refusal.allow,
            )
