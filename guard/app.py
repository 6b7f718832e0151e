"""What the door answers: routes, limits on the way in, and what becomes of each request."""

from __future__ import annotations

import asyncio
import json
import re
import time
import traceback
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from guard.ask import EngineBroke
from guard.config import Config
from guard.desk import Desk
from guard.door import Receive, Scope, Send
from guard.errors import Refusal, unavailable
from guard.metrics import Metrics
from guard.order import Order
from guard.render import Kind
from guard.reply import Reply
from guard.state import State

KINDS: dict[str, Kind] = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "text",
}
TOLD = ("/health", "/ready", "/metrics", "/v1/models")
REQUEST_ID = re.compile(r"^[A-Za-z0-9._:-]{1,128}$")
BODY_PATIENCE_S = 60.0  # from a request's headers to the end of its body
BODIES = 8  # as large as may be, that may be on their way at once
RETRY_LOADING_S = 10
LAST_WORDS_S = 0.5
RETRY_BROKEN_S = 2  # a killed engine's unit is back after its load; clients ask again by then


class App:
    """The ASGI application."""

    def __init__(
        self,
        config: Config,
        state: State,
        desk: Desk,
        metrics: Metrics,
        refresh: Callable[[], Awaitable[None]],
    ) -> None:
        self._config = config
        self._state = state
        self._desk = desk
        self._metrics = metrics
        self._refresh = refresh
        """Called before the metrics are told: brings in what only the engine knows."""
        self._told = {*TOLD, f"/v1/models/{config.served_name}"}
        self._on_the_way = 0  # bytes of bodies that have not all come
        self.engine_broke: Callable[[], None] = lambda: None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        request_id = _request_id(scope)
        reply = Reply(send, request_id)
        if path in KINDS and method == "POST":
            await self._post(Order(request_id, path), receive, reply, KINDS[path])
        elif path in KINDS or (path in self._told and method not in {"GET", "HEAD"}):
            allow = "POST" if path in KINDS else "GET, HEAD"
            words = f"`{path}` takes {allow.partition(',')[0]}"
            await reply.refuse(Refusal(405, words, code="method_not_allowed", allow=allow))
        elif path in {"/health", "/ready"}:
            status = 200 if self._state.now == "ready" else 503
            await reply.whole(status, json.dumps(self._state.report()).encode())
        elif path == "/metrics":
            await self._refresh()
            self._metrics.running.set(self._desk.places.running)
            self._metrics.waiting.set(sum(not order.streams for order in self._desk.orders))
            kind = b"text/plain; version=0.0.4; charset=utf-8"
            await reply.whole(200, self._metrics.render(), kind=kind)
        elif path == "/v1/models":
            await reply.whole(200, json.dumps({"object": "list", "data": [self._model()]}).encode())
        elif path == f"/v1/models/{self._config.served_name}":
            await reply.whole(200, json.dumps(self._model()).encode())
        else:
            await reply.refuse(Refusal(404, f"unknown path: `{path[:200]}`", code="not_found"))

    def _model(self) -> dict[str, Any]:
        return {
            "id": self._config.served_name,
            "object": "model",
            "created": int(self._state.since),
            "owned_by": "mlx-hosts",
            "max_model_len": self._config.context_tokens,
        }

    async def _post(self, order: Order, receive: Receive, reply: Reply, kind: Kind) -> None:
        reply.on_block = order.unread
        try:
            try:
                order.body = await self._body(receive)
            except Refusal as refusal:
                order.outcome = _outcome(refusal)
                await reply.refuse(refusal)
            except ConnectionResetError:
                order.outcome = "client_gone"
            else:
                await self._work_unless_gone(order, receive, reply, kind)
        finally:
            self._metrics.requests.labels(order.outcome or "failed").inc()
            if order.outcome == "ok":
                self._metrics.whole.observe(time.monotonic() - order.began)
            order.log(reply.status)

    async def _body(self, receive: Receive) -> bytes:
        """The request's body; raises Refusal, or ConnectionResetError when the client is gone."""
        parts: list[bytes] = []
        size, limit = 0, self._config.body_limit
        try:
            async with asyncio.timeout(BODY_PATIENCE_S):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ConnectionResetError
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    self._on_the_way += len(parts[-1])
                    if size > limit:
                        words = f"the body exceeds {limit} bytes"
                        raise Refusal(413, words, code="body_too_large")
                    if self._on_the_way > BODIES * limit:
                        words = "too many large bodies are on their way"
                        raise Refusal(429, words, code="overloaded", retry_after=1)
                    if not message.get("more_body"):
                        return b"".join(parts)
        except TimeoutError:
            raise Refusal(408, "the body did not come", code="timeout") from None
        finally:
            self._on_the_way -= size

    async def _work_unless_gone(
        self, order: Order, receive: Receive, reply: Reply, kind: Kind
    ) -> None:
        work = asyncio.create_task(self._work(kind, order, reply))
        gone = asyncio.create_task(_gone(receive))
        order.task = work
        self._desk.orders.add(order)
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                order.outcome = order.outcome or "client_gone"
                work.cancel()
                await asyncio.wait({work})
        finally:
            work.cancel()
            gone.cancel()
            self._desk.orders.discard(order)

    async def _work(self, kind: Kind, order: Order, reply: Reply) -> None:
        try:
            self._refuse_unless_ready()
            await self._desk.serve(kind, order, reply)
            order.outcome = "ok"
        except Refusal as refusal:
            order.outcome = _outcome(refusal)
            await reply.refuse(refusal)
        except EngineBroke as error:
            order.outcome = "engine_failed"
            self.engine_broke()
            await reply.refuse(
                unavailable(str(error), code="engine_failed", retry_after=RETRY_BROKEN_S)
            )
        except OSError:
            order.outcome = "client_gone"  # what uvicorn's send raises once it knows
        except Exception:  # noqa: BLE001 - a mistake of ours costs one request, and is told
            traceback.print_exc()
            await reply.refuse(Refusal(500, "the guard made a mistake", code="guard_failed"))
        except asyncio.CancelledError:
            if order.verdict is None:
                raise
            # Cancelled by the guard itself, which has words for the client.
            asyncio.current_task().uncancel()  # type: ignore[union-attr]
            with suppress(TimeoutError):  # one that does not read cannot be told
                await asyncio.wait_for(reply.refuse(order.verdict), LAST_WORDS_S)

    def _refuse_unless_ready(self) -> None:
        if (now := self._state.now) != "ready":
            wait = RETRY_BROKEN_S if now == "draining" else RETRY_LOADING_S
            raise unavailable(f"not serving: {now}", code=now, retry_after=wait)


def _outcome(refusal: Refusal) -> str:
    return {429: "overloaded", 503: "unavailable"}.get(refusal.status, "refused")


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and REQUEST_ID.match(given := str(value, "latin-1")):
            return given
    return uuid.uuid4().hex


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
