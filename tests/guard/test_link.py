"""How ranks meet, without engines: rank 0's side is played here."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from guard.config import Group
from guard.engines import mlx
from guard.link import Link


def link(port: int) -> Link:
    """Rank 1's, of two."""
    group = Group.model_validate(
        {
            "backend": "ring",
            "rank": 1,
            "ranks": ("127.0.0.1:1", "127.0.0.2:1"),
            "meeting": f"127.0.0.1:{port}",
            "link_timeout_s": 1.0,
        }
    )
    return Link(group, {})


def meets(*answers: dict[str, Any] | None) -> tuple[Link, int]:
    """Have rank 1 meet a rank 0 that answers so, link by link; None closes it without a word."""

    async def play() -> tuple[Link, int]:
        links = 0

        async def welcome(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal links
            answer = answers[min(links, len(answers) - 1)]
            links += 1
            assert json.loads(await reader.readline())["hello"] == {"rank": 1}
            if answer == {}:
                await asyncio.sleep(3)  # silence, for longer than it is borne
            elif answer is not None:
                writer.write(json.dumps(answer).encode() + b"\n")
                await reader.read()
            writer.close()

        async with await asyncio.start_server(welcome, "127.0.0.1", 0) as server:
            mine = link(server.sockets[0].getsockname()[1])
            try:
                async with asyncio.timeout(20):
                    await mine.meet()
            finally:
                await mine.close()
        return mine, links

    return asyncio.run(play())


def test_a_rank_0_that_is_about_to_fail_costs_no_start() -> None:
    """It closes the link, or says nothing: it is asked again until it gives the start."""
    met, links = meets(None, {}, {"start": "abc"})
    assert (met.generation, links) == ("abc", 3)


def test_a_rank_0_that_is_not_deployed_yet_costs_no_start() -> None:
    """It refuses what differs, until its own deploy has made it the same."""
    met, links = meets({"refused": "different runtime"}, {"start": "abc"})
    assert (met.generation, links) == ("abc", 2)


def test_a_refusal_is_told_while_it_lasts() -> None:
    """Whoever waits says what for."""
    told: list[str] = []

    async def wait() -> None:
        async def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b'{"refused": "different runtime"}\n')

        async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
            mine = link(server.sockets[0].getsockname()[1])
            with suppress(TimeoutError):
                await asyncio.wait_for(mine.meet(), 1)
            told.append(mine.words)
            await mine.close()

    asyncio.run(wait())
    assert told == ["rank 0 refuses: different runtime"]


def test_rank_0_waits_for_its_own_address() -> None:
    """At boot its guard may be there before the fabric's interface is."""

    async def wait() -> Link:
        with socket.create_server(("127.0.0.1", 0)) as other:
            mine = link(other.getsockname()[1])
            mine.group = mine.group.model_copy(update={"rank": 0})
            meeting = asyncio.create_task(mine.meet())
            await asyncio.sleep(0.2)
            assert "cannot listen at 127.0.0.1:" in mine.words
        await asyncio.sleep(1)
        told = {"hello": {"rank": 1}}
        host, _, port = mine.group.meeting.rpartition(":")
        _, writer = await asyncio.open_connection(host, port, local_addr=("127.0.0.2", 0))
        writer.write(json.dumps(told).encode() + b"\n")
        await asyncio.wait_for(meeting, 5)
        writer.close()
        await mine.close()
        return mine

    assert asyncio.run(wait()).generation


def says(*lines: bytes) -> tuple[str, bytes]:
    """What rank 0 says of a rank 1 that says this, and what it hears until the link is closed."""

    async def play() -> tuple[str, bytes]:
        with socket.create_server(("127.0.0.1", 0)) as other:
            mine = link(other.getsockname()[1])
        mine.group = mine.group.model_copy(update={"rank": 0, "link_timeout_s": 60})
        mine.about = {"slug": "ours"}
        meeting = asyncio.create_task(mine.meet())
        await asyncio.sleep(0.2)
        host, _, port = mine.group.meeting.rpartition(":")
        reader, writer = await asyncio.open_connection(host, port, local_addr=("127.0.0.2", 0))
        writer.writelines(lines)
        try:
            heard = await asyncio.wait_for(reader.read(), 5)
        finally:
            writer.close()
            meeting.cancel()
            await mine.close()
        return mine.words, heard

    return asyncio.run(play())


def test_a_rank_that_is_refused_is_hung_up_upon() -> None:
    """It is told why, and its link does not stay open for as long as it likes."""
    words, heard = says(b'{"hello": {"rank": 1, "slug": "theirs"}}\n')
    assert "was refused: different slug" in words
    assert json.loads(heard) == {"refused": "different slug"}


@pytest.mark.parametrize(
    "hello", [b"5", b"[5]", b"{", b"[" * 20_000, b'{"hello": 5}', b'{"hello": {"rank": "x"}}']
)
def test_what_is_no_hello_is_hung_up_upon(hello: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever speaks to that port, rank 0 goes on waiting for its ranks."""
    words, _ = says(hello + b"\n")
    assert "waiting" in words or "there is no rank -1" in words
    assert not caplog.records  # asyncio's, of what nobody has caught


@pytest.mark.parametrize("line", [b"5", b"[" * 20_000])
def test_a_rank_that_talks_nonsense_is_lost(line: bytes) -> None:
    """Its loss is noticed like any other: before the start it is waited for again."""
    words, _ = says(b'{"hello": {"rank": 1, "slug": "ours"}}\n', line + b"\n")
    assert "the link to rank 1 broke" in words


def test_nccl_is_told_the_interface_of_its_own_address_and_no_other(tmp_path: Path) -> None:
    """By its exact name; loopback's where the ranks of one host have no other."""
    for name in {name for _, name in socket.if_nameindex()}:
        told = subprocess.check_output(["ip", "-4", "-o", "addr", "show", "dev", name], text=True)
        for address in re.findall(r"inet ([\d.]+)", told)[:1]:
            group = Group.model_validate(
                {
                    "backend": "nccl",
                    "rank": 1,
                    "ranks": ("192.0.2.99:1", f"{address}:1"),
                    "meeting": "192.0.2.99:2",
                }
            )
            given = mlx.group_environment(group, tmp_path)
            assert given["NCCL_SOCKET_IFNAME"] == f"={name}"
            assert given["NCCL_HOST_IP"] == "192.0.2.99"
    assert mlx.interface("127.0.0.9") == "lo"
    stranger = Group.model_validate(
        {"backend": "nccl", "rank": 0, "ranks": ("192.0.2.99:1", "192.0.2.98:1"),
         "meeting": "192.0.2.99:2"}
    )  # fmt: skip
    with pytest.raises(OSError, match="is not the first address of any interface"):
        mlx.group_environment(stranger, tmp_path)
