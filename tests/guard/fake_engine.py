"""An engine that generates nothing, in mlx_lm.server's format: for what the real one rarely does.

As a program it is the engine: a token every 50 ms, as many as are asked for; a prompt that ends
with ``forget me`` gets two and then silence, and one that begins with ``slowly`` is prefilled by 16
tokens each tenth of a second; from a prompt ``hang`` on there is silence for all.

``make_runtime`` makes a runtime whose Python starts it in the launcher's place.  What ``breaks``
there is the answer to such a prompt or to a ``probe``, the ``facts``, the ``tokenizer`` at its
second question, or the ``process`` at the prompt "4", just after its connection.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from functools import partial
from pathlib import Path

EVERY_S = 0.05
FORGET, SLOWLY, HANG = "forget me", "slowly", "hang"
STEP, STEP_S = 16, 0.1
HANGS = asyncio.Event()
FACTS = {
    "fingerprint": "fake", "batchable": True, "active_bytes": 0, "peak_bytes": 0, "cache_bytes": 0,
    "prompt_cache_entries": 0, "prompt_cache_bytes": 0,
}  # fmt: skip
SHIM = """#!{python}
import os, sys
words = sys.argv[1:]
if any(word.endswith("mlx_launcher.py") for word in words):
    words = [{this!r}, words[words.index("--guard-socket") + 1], {breaks!r}]
elif {breaks!r} == "tokenizer":
    os.execv("/bin/sh", ["sh", "-c", {dying!r}])
os.execv({python!r}, [{python!r}, *words])
"""
TOLD = {"vocabulary": 9, "chat": True, "tools": False, "thinking": False, "template_arguments": []}
DYING = f"echo '{json.dumps(TOLD)}'; read ask; echo '{{\"tokens\": 0}}'; read ask"


def make_runtime(place: Path, *, breaks: str = "") -> Path:
    program = place / "bin/python"
    program.parent.mkdir(parents=True)
    program.write_text(
        SHIM.format(python=sys.executable, this=__file__, breaks=breaks, dying=DYING)
    )
    program.chmod(0o755)
    return place


def _data(value: object) -> bytes:
    return b"data: " + (value if isinstance(value, bytes) else json.dumps(value).encode()) + b"\n\n"


async def _generate(asked: dict, writer: asyncio.StreamWriter, breaks: str) -> None:
    prompt = asked.get("prompt") or asked["messages"][-1]["content"]
    if prompt == breaks or (breaks == "probe" and asked["max_tokens"] == 2):
        return
    if breaks == "process" and prompt == "4":
        writer.close()
        await asyncio.sleep(EVERY_S)
        os.kill(os.getpid(), signal.SIGKILL)
    if prompt == HANG:
        HANGS.set()
    if HANGS.is_set():
        await asyncio.sleep(3600)
    if prompt.startswith(SLOWLY):
        for done in range(STEP, len(prompt), STEP):
            writer.write(f": keepalive {done}/{len(prompt)}\n\n".encode())
            await asyncio.sleep(STEP_S)
    for number in range(count := asked["max_tokens"]):
        finish = "length" if number == count - 1 else None
        delta = {"delta": {"content": "word "}} if "messages" in asked else {"text": "word "}
        writer.write(_data({"choices": [{"index": 0, "finish_reason": finish, **delta}]}))
        await writer.drain()
        if prompt.endswith(FORGET) and number == 1:
            await asyncio.sleep(3600)
        await asyncio.sleep(EVERY_S)
    usage = {"prompt_tokens": len(prompt), "completion_tokens": count}
    writer.write(_data({"choices": [], "usage": usage}) + _data(b"[DONE]"))


async def _answer(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, breaks: str
) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    writer.write(b"HTTP/1.0 200 OK\r\n\r\n")
    try:
        if head.startswith("get"):
            writer.write(json.dumps({} if breaks == "facts" else FACTS).encode())
        else:
            length = int(head.split("content-length: ")[1].split("\r\n")[0])
            await _generate(json.loads(await reader.readexactly(length)), writer, breaks)
    except OSError:
        pass  # called off
    writer.close()


async def main(socket: str, breaks: str) -> None:
    server = await asyncio.start_unix_server(partial(_answer, breaks=breaks), socket)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
