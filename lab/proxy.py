"""A slow link: a TCP proxy on this machine that delays what passes, both ways."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

_CHUNK = 1 << 16


@contextmanager
def slow_link(address: str, port: int, *, round_trip_ms: float) -> Iterator[tuple[str, int]]:
    """Give an address and a port on loopback that lead to another, a round trip later.

    Half of it is added each way, to every byte, without holding back those that follow; opening a
    connection costs a round trip too. (The kernel's netem may not be there.)
    """
    ready = threading.Event()
    where: list[tuple[str, int]] = []
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        async with _proxy(address, port, round_trip_ms / 2000) as told:
            where.append(told)
            ready.set()
            await stop.wait()

    def run() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            loop.run_until_complete(serve())
        loop.close()

    thread = threading.Thread(target=run, name="slow-link", daemon=True)
    thread.start()
    if not ready.wait(timeout=5):
        raise TimeoutError("the slow link does not start")
    try:
        yield where[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(timeout=5)


@asynccontextmanager
async def _proxy(address: str, port: int, delay_s: float) -> AsyncIterator[tuple[str, int]]:
    passing: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(2 * delay_s)
        try:
            far_reader, far_writer = await asyncio.open_connection(address, port)
        except OSError:
            writer.transport.abort()
            return
        for one in (
            asyncio.create_task(_pass(reader, far_writer, delay_s)),
            asyncio.create_task(_pass(far_reader, writer, delay_s)),
        ):
            passing.add(one)
            one.add_done_callback(passing.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        host, bound = server.sockets[0].getsockname()
        yield host, bound
    finally:
        server.close()
        for one in list(passing):
            one.cancel()
        await asyncio.gather(*passing, return_exceptions=True)


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float) -> None:
    """Hand on what is read, each piece when its time has come; the queue keeps the order."""
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=1024)

    async def deliver() -> None:
        while True:
            due, piece = await queue.get()
            await asyncio.sleep(max(0.0, due - loop.time()))
            if not piece:
                break
            writer.write(piece)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()

    delivery = asyncio.create_task(deliver())
    try:
        piece = b" "
        while piece:
            piece = await reader.read(_CHUNK)
            await queue.put((loop.time() + delay_s, piece))
        await delivery
    except OSError:
        writer.transport.abort()
    finally:
        delivery.cancel()
