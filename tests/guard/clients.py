"""OpenAI's own client, on an instance's socket."""

from __future__ import annotations

import httpx2
import openai

from tests.guard.instance import Instance


def openai_client(instance: Instance) -> openai.OpenAI:
    """Without its retries, so that a test sees each error."""
    transport = httpx2.HTTPTransport(uds=str(instance.socket))
    return openai.OpenAI(
        base_url="http://guard/v1",
        api_key="none",
        max_retries=0,
        http_client=httpx2.Client(transport=transport),
    )
