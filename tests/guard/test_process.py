"""The engine's process, where it does not do as it is told."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from guard import process


class Unkillable:
    """A child that hangs inside the driver: no signal ends it, and it is waited for in vain."""

    pid = 2**22 + 1  # no process has it: the kernel's own limit is 2**22
    returncode = None

    async def wait(self) -> int:
        await asyncio.Event().wait()
        raise AssertionError


def test_an_engine_that_cannot_be_killed_does_not_keep_the_unit_active(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The guard goes on to its own end, so that systemd takes over; and says why."""
    monkeypatch.setattr(process, "KILL_S", 0.1)

    async def end() -> None:
        child = cast("Any", Unkillable())
        async with asyncio.timeout(5):
            await process.EngineProcess(child).end(grace_s=0.1)

    asyncio.run(end())
    assert "does not end on SIGKILL" in capsys.readouterr().err
