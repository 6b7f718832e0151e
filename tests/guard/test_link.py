"""How ranks meet, without engines: rank 0's side is played here."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from guard.config import Group
from guard.engines import mlx
from guard.link import Link, Lost


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


def test_a_refusal_is_final() -> None:
    """Asking again would change nothing, and the reason is to be seen."""
    with pytest.raises(Lost, match="rank 0 refuses: different runtime"):
        meets({"refused": "different runtime"})


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
    assert mlx.interface("192.0.2.99") is None
