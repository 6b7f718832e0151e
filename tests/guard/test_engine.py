"""How an engine is asked, where what matters is the engine's side, which is played here."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from guard.ask import EngineBroke
from guard.engines import mlx


def asked(place: Path, head: bytes, body: bytes, question: str) -> tuple[object, bytes]:
    """What the engine is taken to have said, and what it reads while its body is late."""

    async def play() -> tuple[object, bytes]:
        heard: asyncio.Queue[bytes] = asyncio.Queue()

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(head)
            try:
                heard.put_nowait(await asyncio.wait_for(reader.read(), 0.2))
            except TimeoutError:
                heard.put_nowait(b"patience")
            writer.write(body)
            writer.close()

        path = str(place / "engine.sock")
        async with await asyncio.start_unix_server(answer, path):
            told = await getattr(mlx.Engine(path), question)()
            return told, await heard.get()

    return asyncio.run(play())


@pytest.mark.parametrize(("status", "lives"), [(200, True), (503, False)])
def test_the_word_that_it_lives_is_heard_to_its_end(
    tmp_path: Path, status: int, lives: object
) -> None:
    """Hung up upon before its body, the engine logs a broken pipe each second."""
    head = f"HTTP/1.0 {status} OK\r\n\r\n".encode()
    assert asked(tmp_path, head, b'{"status": "ok"}', "alive") == (lives, b"patience")


@pytest.mark.parametrize("body", [b"", b"{", b"7"])
def test_facts_that_are_none_are_the_engines_mistake(tmp_path: Path, body: bytes) -> None:
    """As where it breaks off: whoever asks has one error to reckon with."""
    with pytest.raises(EngineBroke, match="its facts are not understood"):
        asked(tmp_path, b"HTTP/1.0 200 OK\r\n\r\n", body, "facts")
