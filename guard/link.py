"""The guards of a rank group hold on to each other: they start together and fall together.

Rank 0's guard listens; the others come and say what they would serve.  When all are there, rank 0
gives the start a generation number and every rank starts its engine.  From then on each side hears
the other every second.  Losing a link fails the rank, systemd restarts it, and a rank that fails
takes its links along, so all meet again: over hosts, too, where systemd cannot bind.

One JSON object a line: ``hello`` (what a rank is), ``refused``, ``start`` (the generation),
``beat``, ``ready`` (a token came), ``leaving`` (asked to stop: rank 0 drains for all).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from dataclasses import dataclass, field
from typing import Any

from guard.config import Group

BEAT_S = 1.0
RETRY_S = 0.5
LINE_LIMIT = 1 << 16


class Lost(Exception):  # noqa: N818 - what happened, as a clause
    """Another rank is gone, or does not fit; the message says which."""


@dataclass(slots=True, eq=False)
class Peer:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    rank: int

    def tell(self, **message: Any) -> None:  # noqa: ANN401 - any JSON
        if not self.writer.is_closing():
            self.writer.write(json.dumps(message).encode() + b"\n")

    async def hear(self, patience_s: float) -> dict[str, Any]:
        """The next message; raises Lost."""
        try:
            async with asyncio.timeout(patience_s):
                line = await self.reader.readline()
            if line:
                return dict(json.loads(line))
        except TimeoutError:
            raise Lost(f"rank {self.rank} has been silent for {patience_s:.0f} s") from None
        except (OSError, ValueError, TypeError, RecursionError) as error:  # or it is no object
            raise Lost(f"the link to rank {self.rank} broke: {error}") from None
        raise Lost(f"rank {self.rank} closed the link")


@dataclass(slots=True)
class Link:
    """Rank 0's links to all others, or another rank's link to rank 0."""

    group: Group
    about: dict[str, Any]
    """What must be equal on all ranks."""
    generation: str = ""
    words: str = "waiting for the other ranks"
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    leaving: asyncio.Event = field(default_factory=asyncio.Event)
    lost: str | None = None
    _peers: dict[int, Peer] = field(default_factory=dict)
    _all_here: asyncio.Event = field(default_factory=asyncio.Event)
    _server: asyncio.Server | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def meet(self) -> None:
        """Until every rank is there and the start is given; ``words`` say what is waited for."""
        host, _, port = self.group.meeting.rpartition(":")
        if self.group.rank:
            await self._join(host, int(port))
            return
        while self._server is None:
            try:
                self._server = await asyncio.start_server(
                    self._welcome, host, int(port), limit=LINE_LIMIT
                )
            except OSError as error:  # at boot, before the fabric's interface is up
                self.words = f"cannot listen at {self.group.meeting}: {error.strerror or error}"
                await asyncio.sleep(RETRY_S)
        await self._all_here.wait()
        self.generation = secrets.token_hex(8)
        for peer in self._peers.values():
            peer.tell(start=self.generation)

    def tell_ready(self) -> None:
        for peer in self._peers.values():
            peer.tell(ready=True)

    def tell_leaving(self) -> None:
        for peer in self._peers.values():
            peer.tell(leaving=True)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for peer in self._peers.values():
            peer.writer.close()
        if self._server is not None:
            self._server.close()

    # Rank 0

    async def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer, -1)
        address = str(writer.get_extra_info("peername")[0])
        try:
            hello = (await peer.hear(self.group.link_timeout_s)).get("hello")
        except Lost:
            writer.close()
            return
        hello = hello if isinstance(hello, dict) else {}
        peer.rank = rank if isinstance(rank := hello.get("rank"), int) else -1
        if why := self._does_not_fit(peer.rank, address, hello):
            self.words = f"rank {peer.rank} from {address} was refused: {why}"
            peer.tell(refused=why)
            writer.close()
            return
        if peer.rank in self._peers:
            if self.generation:
                # It has restarted, and its old link has not been missed yet.
                self._lose(f"rank {peer.rank} came anew")
                writer.close()
                return
            self._peers.pop(peer.rank).writer.close()
        self._peers[peer.rank] = peer
        self.words = f"{len(self._peers) + 1} of {self.group.world} ranks are here"
        self._keep(peer)
        if len(self._peers) == self.group.world - 1:
            self._all_here.set()

    def _does_not_fit(self, rank: int, address: str, hello: dict[str, Any]) -> str | None:
        if rank not in range(1, self.group.world):
            return f"there is no rank {rank}"
        if address != self.group.ranks[rank].rpartition(":")[0]:
            return f"rank {rank} is declared at {self.group.ranks[rank]}"
        different = [key for key, value in self.about.items() if hello.get(key) != value]
        return f"different {', '.join(different)}" if different else None

    # The others

    async def _join(self, host: str, port: int) -> None:
        own = self.group.ranks[self.group.rank].rpartition(":")[0]
        while True:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection(
                    host, port, local_addr=(own, 0), limit=LINE_LIMIT
                )
                if await self._met(Peer(reader, writer, 0)):
                    return
            await asyncio.sleep(RETRY_S)

    async def _met(self, peer: Peer) -> bool:
        """Whether rank 0 gave the start; ``words`` say why not.

        It may be about to fail with the group before, or its host be deployed after ours: to fail
        for that would cost a start, of which systemd allows five.
        """
        self._peers[0] = peer
        peer.tell(hello=self.about | {"rank": self.group.rank})
        self.words = "met rank 0, waiting for the others"
        beating = asyncio.create_task(self._beat(peer))
        try:
            while True:
                message = await peer.hear(self.group.link_timeout_s)
                if "start" in message:
                    self.generation = str(message["start"])
                    self._keep(peer)
                    return True
                if "refused" in message:
                    self.words = f"rank 0 refuses: {message['refused']}"
                    break
        except Lost as lost:
            self.words = str(lost)
        finally:
            beating.cancel()
        peer.writer.close()
        return False

    # All

    def _keep(self, peer: Peer) -> None:
        for work in (self._beat(peer), self._listen(peer)):
            task = asyncio.create_task(work)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _beat(self, peer: Peer) -> None:
        while not peer.writer.is_closing():
            peer.tell(beat=self.generation)
            await asyncio.sleep(BEAT_S)

    async def _listen(self, peer: Peer) -> None:
        try:
            while True:
                message = await peer.hear(self.group.link_timeout_s)
                if message.get("ready"):
                    self.ready.set()
                if message.get("leaving"):
                    self.leaving.set()
        except Lost as lost:
            peer.writer.close()
            if self._peers.get(peer.rank) is not peer:
                return
            if self.generation:
                self._lose(str(lost))
            else:
                del self._peers[peer.rank]
                self._all_here.clear()
                self.words = str(lost)

    def _lose(self, why: str) -> None:
        self.lost = self.lost or why
