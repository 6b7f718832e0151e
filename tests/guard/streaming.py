"""Streams that are in flight while something happens."""

from __future__ import annotations

import threading
from typing import Any

import httpx2

from tests.guard.instance import Instance


class InFlight:
    """A stream that was begun and is being read."""

    def __init__(self, instance: Instance, **body: Any) -> None:
        self.text, self.error = "", None
        self.begun, self.ended = threading.Event(), threading.Event()
        self._instance, self._body = instance, body
        threading.Thread(target=self._read, daemon=True).start()
        assert self.begun.wait(20)

    def _read(self) -> None:
        asked = {"model": "tiny", "messages": [{"role": "user", "content": "go"}], "stream": True,
                 "max_tokens": 3500, "logit_bias": {"256": -100}} | self._body  # fmt: skip
        transport = httpx2.HTTPTransport(uds=str(self._instance.socket))
        try:
            with (
                httpx2.Client(transport=transport, base_url="http://guard", timeout=60) as client,
                client.stream("POST", "/v1/chat/completions", json=asked) as answer,
            ):
                for text in answer.iter_text():
                    self.text += text
                    if '"content"' in self.text:
                        self.begun.set()
        except httpx2.HTTPError as error:
            self.error = error
        self.ended.set()
