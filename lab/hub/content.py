"""Sending a file's bytes: ranges, and the faults that strike on the way."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

from starlette.responses import Response, StreamingResponse

from lab.hub.faults import Fault
from lab.hub.store import Entry

_CHUNK = 1 << 20
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


class CutConnectionError(Exception):
    """Raised within an answer so that the server closes the connection in the middle of it."""


def send(entry: Entry, asked: str | None, fault: Fault | None, headers: dict[str, str]) -> Response:
    """Answer a GET of a file, whole or the one range asked for (RFC 9110, section 14)."""
    size = entry.size
    if fault and fault.kind == "short":
        size = min(size, fault.after_bytes)
    span = _span(asked, size)
    if span is None:
        return Response(status_code=416, headers={"Content-Range": f"bytes */{size}"})
    start, end = span
    answer = {
        **headers,
        "Accept-Ranges": "bytes",
        "Content-Length": str(end - start),
        "ETag": f'"{entry.etag}"',
    }
    if asked:
        answer["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    return StreamingResponse(
        _bytes(Path(entry.at), start, end, fault),
        status_code=206 if asked else 200,
        media_type="application/octet-stream",
        headers=answer,
    )


def _span(asked: str | None, size: int) -> tuple[int, int] | None:
    """Read a Range header: first byte and the one after the last; None if it cannot be met."""
    match = _RANGE.fullmatch(asked) if asked else None
    if not match:
        return 0, size
    first, last = match.groups()
    if not first:
        start, end = max(size - int(last or 0), 0), size
    else:
        start, end = int(first), min(int(last) + 1 if last else size, size)
    return (start, end) if start < end else None


async def _bytes(path: Path, start: int, end: int, fault: Fault | None) -> AsyncIterator[bytes]:
    stop = end
    if fault and fault.kind in {"cut", "hang"}:
        stop = min(end, start + fault.after_bytes)
    chunk = _CHUNK
    if fault and fault.kind == "slow":
        chunk = max(min(_CHUNK, fault.bytes_per_second // 10), 1)
    with path.open("rb") as file:
        file.seek(start)
        at = start
        while at < stop:
            content = file.read(min(chunk, stop - at))
            if fault and fault.kind == "corrupt" and at <= fault.after_bytes < at + len(content):
                content = _with_another_byte(content, fault.after_bytes - at)
            yield content
            at += len(content)
            if fault and fault.kind == "slow":
                await asyncio.sleep(len(content) / fault.bytes_per_second)
    if fault and fault.kind == "hang":
        await asyncio.Event().wait()  # until the client goes away or the hub stops
    if fault and fault.kind == "cut":
        raise CutConnectionError


def _with_another_byte(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]
