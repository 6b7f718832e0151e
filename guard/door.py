"""The HTTP server on the unix socket."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

BACKLOG = 1024
FLUSH_S = 2.0  # for answers that are written but not yet taken, when nothing is left to wait for
HEAD_PATIENCE_S = 30.0  # from the first byte of a request, or from the connection, to its headers
HEAD_BYTES = 65_536  # and of what else is no body: trailers, sizes of chunks, what precedes a head
TICKS = 10  # of uvicorn's, in a second
TAKE_PATIENCE_S = 60.0  # from the end of an answer until all of it is taken


def listen(path: Path) -> socket.socket:
    """A listening unix socket that the service's own group may use, and nobody else."""
    path.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o117)
    try:
        sock.bind(str(path))
    finally:
        os.umask(before)
    sock.listen(BACKLOG)
    return sock


class Connection(HttpToolsProtocol):
    """uvicorn's, with bounds that it has not: on connections, on heads, on requests at once."""

    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2  # the engine's need descriptors, too
    _head = 0  # bytes since the last of a body, or of a head that was whole
    _taken = 0.0  # when last there was nothing to take, or an answer went on
    _refused = False  # what comes is not looked at any more, but for its end
    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if len(self.connections) >= self.most:
            self.transport = transport
            transport.abort()
            return
        super().connection_made(transport)
        self._taken = self.loop.time()
        self._wait_for_a_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._have_a_head()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        if self._patience is None and (self.cycle is None or self.cycle.response_complete):
            self._wait_for_a_head()  # whatever it is that comes: a rest of a body, an empty line
        self._head += len(data)
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._stay(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._refuse_what_is_no_http()
        if self._head > HEAD_BYTES:
            self.transport.abort()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._wait_for_a_head()

    def on_headers_complete(self) -> None:
        self._have_a_head()
        if self.parser.should_upgrade():
            return  # it is read anew
        if self.cycle is not None and not self.cycle.response_complete:
            # One more before the first is answered: uvicorn would stop reading until then, and so
            # not see that the client goes. The connection ends with the answer to the first, and
            # the client asks again (RFC 9112, 9.3.2).
            self.cycle.keep_alive = False
            self._refused = True
            return
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._head = 0
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if not self._refused and not self.parser.should_upgrade():
            super().on_message_complete()

    def leave_unless_answered(self) -> None:
        if self.cycle is not None and not self.cycle.response_started:
            self.transport.abort()

    def leave_unless_taken(self) -> None:
        """Called each second: neither uvicorn nor the transport bounds how long an answer waits.

        A client that reads a stream too slowly is found elsewhere (watch.py), and told.
        """
        cycle = self.cycle
        goes_on = (
            cycle is not None
            and cycle.chunked_encoding
            and not cycle.response_complete
            and not self.transport.is_closing()
        )
        if goes_on or not self.transport.get_write_buffer_size():
            self._taken = self.loop.time()
        elif self.loop.time() - self._taken > TAKE_PATIENCE_S:
            self.transport.abort()

    def _stay(self, rest: bytes) -> None:
        """Read a request anew that asks for another protocol, without its asking.

        Nothing else is spoken here, and who asks may be ignored (RFC 9110, 7.8).  The parser takes
        the body for the other protocol's, and what comes later for the next request.
        """
        method = self.parser.get_method()
        if method == b"CONNECT":
            self._refuse_what_is_no_http()
            return
        version = self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (method, self.url, version)]
        lines += [b"%b: %b" % header for header in self.headers if header[0] != b"upgrade"]
        self.data_received(b"\r\n".join([*lines, b"", rest]))

    def _refuse_what_is_no_http(self) -> None:
        words = "Invalid HTTP request received."
        self.logger.warning(words)
        self.send_400_response(words)

    def _wait_for_a_head(self) -> None:
        self._have_a_head()
        self._patience = self.loop.call_later(HEAD_PATIENCE_S, self.transport.abort)

    def _have_a_head(self) -> None:
        self._head = 0
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None


class Door(uvicorn.Server):
    """uvicorn without its signal handlers: the guard decides when to leave."""

    def __init__(self, application: Application) -> None:
        super().__init__(
            uvicorn.Config(
                application,
                http=Connection,
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=75,  # longer than a balancer keeps its own side idle
            )
        )

    def close(self, *, within_s: float) -> None:
        """End, once what was answered is taken, or after so long.

        Whose request has not all come is not waited for: it was not accepted.
        """
        for connection in list(self.server_state.connections):
            if isinstance(connection, Connection):
                connection.leave_unless_answered()
        self.config.timeout_graceful_shutdown = max(FLUSH_S, within_s)  # type: ignore[assignment]
        self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        if counter % TICKS == 0:
            for connection in list(self.server_state.connections):
                if isinstance(connection, Connection):
                    connection.leave_unless_taken()
        return await super().on_tick(counter)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
