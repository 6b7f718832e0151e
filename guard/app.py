"""What the door answers."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from guard import upstream
from guard.config import Config
from guard.door import Receive, Scope, Send

MODEL_FIELDS = ("model", "adapters", "draft_model", "num_draft_tokens")


class App:
    def __init__(self, config: Config, port: int) -> None:
        self._config = config
        self._port = port
        self._gate = asyncio.Semaphore(4)
        self.state = "loading"
        self.running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        if path in {"/health", "/ready"}:
            await _json(send, 200 if self.state == "ready" else 503, {"status": self.state})
        elif path == "/v1/models" and method == "GET":
            model = {"id": self._config.served_name, "object": "model", "owned_by": "mlx-hosts"}
            await _json(send, 200, {"object": "list", "data": [model]})
        elif path in {"/v1/chat/completions", "/v1/completions"} and method == "POST":
            self.running += 1
            try:
                await self._pass(path, receive, send)
            finally:
                self.running -= 1
        else:
            await _error(send, 404, f"unknown path: `{path}`")

    async def _pass(self, path: str, receive: Receive, send: Send) -> None:
        if self.state != "ready":
            await _error(send, 503, f"not ready: {self.state}")
            return
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        try:
            asked: dict[str, Any] = dict(json.loads(body))
        except (ValueError, TypeError):
            await _error(send, 400, "the body is no JSON object")
            return
        name = self._config.served_name
        if asked.get("model") != name:
            await _error(send, 404, f"unknown model: `{asked.get('model')}`; this is `{name}`")
            return
        for field in MODEL_FIELDS:
            asked.pop(field, None)
        # The engine echoes the model it was asked for; a quoted key cannot stand inside a string.
        echoed, ours = b'"model": "default_model"', f'"model": {json.dumps(name)}'.encode()
        try:
            async with upstream.request(
                self._port, "POST", path, json.dumps(asked).encode(), gate=self._gate
            ) as answer:
                kind = b"text/event-stream" if asked.get("stream") else b"application/json"
                await send(
                    {
                        "type": "http.response.start",
                        "status": answer.status,
                        "headers": [(b"content-type", kind)],
                    }
                )
                while line := await answer.reader.readline():
                    part = line.replace(echoed, ours)
                    await send({"type": "http.response.body", "body": part, "more_body": True})
        except upstream.UpstreamError as error:
            await _error(send, 503, str(error))
            return
        await send({"type": "http.response.body", "body": b""})


async def _error(send: Send, status: int, message: str) -> None:
    kind = "server_error" if status >= 500 else "invalid_request_error"  # noqa: PLR2004
    await _json(send, status, {"error": {"message": message, "type": kind}})


async def _json(send: Send, status: int, value: object) -> None:
    body = json.dumps(value).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
