"""What one instance consists of, put together from its configuration."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

from guard import engines
from guard.app import App
from guard.ask import EngineBroke
from guard.config import Config
from guard.desk import Desk
from guard.link import Link
from guard.metrics import Metrics
from guard.notify import Notifier
from guard.process import EngineProcess
from guard.state import State
from guard.tokenizer import Tokenizer
from guard.vitals import Vitals

LOOK_S = 0.25  # between two looks at the engine


class Failed(Exception):  # noqa: N818 - a state, and said as one
    """The instance cannot go on; the message says why."""


class Left(Exception):  # noqa: N818 - no error
    """SIGTERM came while starting."""


class Parts:
    def __init__(self, config: Config, notifier: Notifier) -> None:
        self.config = config
        self.notifier = notifier
        self.metrics = Metrics(config)
        self.state = State(config, notifier, self.metrics)
        engine_socket = str(Path(config.socket).with_name("engine.sock"))
        self.engine_module = engines.module(config.engine)
        self.engine = self.engine_module.Engine(engine_socket)
        self.command = self.engine_module.command(config, engine_socket)
        self.environment = self.engine_module.environment(config)
        self.tokenizer = Tokenizer(self.engine_module.tokenizer_command(config), self.environment)
        self.vitals = Vitals(
            floor_s=config.hang_floor_s,
            compile_s=config.compile_allowance_s,
            prefill_step=config.prefill_step,
            prompt_concurrency=config.prompt_concurrency,
        )
        self.desk = Desk(config, self.engine, self.tokenizer, self.vitals, self.metrics)
        self.app = App(config, self.state, self.desk, self.metrics, self._refresh_metrics)
        self.leaving = asyncio.Event()
        self.look_now = asyncio.Event()
        self.app.engine_broke = self.look_now.set
        self.link = _link(config)
        self.follower = config.group is not None and config.group.rank > 0
        """A rank above 0: it serves nobody, and rank 0 says when the group is ready."""
        self.process: EngineProcess | None = None
        self.broke_by_itself = False
        """The engine, whose process may live on all the same; not that we judged it hung."""
        self.stopped_since: float | None = None
        self.drained_by = 0.0
        """Until when, by the monotonic clock, what was accepted may take; 0: at once."""

    def leave(self) -> None:
        self.leaving.set()
        self.look_now.set()

    async def look(self) -> bool:
        """Wait until it is time to look again; whether somebody called for it."""
        assert self.process is not None  # noqa: S101 - started
        called = asyncio.create_task(self.look_now.wait())
        await asyncio.wait(
            {called, self.process.exited}, timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED
        )
        called.cancel()
        at_once = self.look_now.is_set()
        self.look_now.clear()
        return at_once

    async def _refresh_metrics(self) -> None:
        if self.state.now != "ready":
            return
        with suppress(EngineBroke, TimeoutError):
            async with asyncio.timeout(1.0):
                self.metrics.memory(await self.engine.facts())

    async def sleep(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self.leaving.wait(), seconds)
        self.raise_if_left()

    def raise_if_left(self) -> None:
        if self.leaving.is_set():
            raise Left


def _link(config: Config) -> Link | None:
    if config.group is None:
        return None
    settings = (
        "slug", "served_name", "engine", "context_tokens", "prompt_concurrency",
        "decode_concurrency", "prefill_step", "prompt_cache_entries",
    )  # fmt: skip
    about = {name: getattr(config, name) for name in settings}
    return Link(config.group, about | {"runtime": Path(config.runtime).name})
