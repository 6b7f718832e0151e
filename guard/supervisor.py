"""The life of one instance: start, truth, and an end that says why."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from contextlib import aclosing, suppress
from pathlib import Path

from guard import gpu
from guard.app import App
from guard.ask import Ask, EngineBroke
from guard.config import Config
from guard.desk import Desk
from guard.door import Door, listen
from guard.engines import mlx
from guard.errors import Refusal, unavailable
from guard.link import Link, Lost
from guard.metrics import Metrics
from guard.notify import Notifier
from guard.process import EngineProcess
from guard.pulse import Pulse
from guard.state import State
from guard.tokenizer import Tokenizer
from guard.vitals import Hung, Stream, Vitals
from guard.weights import Incomplete, fingerprint

LOOK_S = 0.25  # between two looks at the engine
HEALTH_S = 1.0  # between two questions whether its generation thread lives
HEALTH_PATIENCE_S = 10.0  # it answered in 4 ms during the longest prefill
STOPPED_S = 2.0  # a process stopped by a signal for this long is no debugger's visit
FAREWELL_S = 1.0  # for the last words to clients in flight
ENGINE_GRACE_S = 3.0
PACE_TOKENS = (4, 128)  # prompts of the measurement at the start, the longer if the shorter is
PACE_S = 0.5  # quicker than this; a CPU takes half a minute for the longer one


class Failed(Exception):  # noqa: N818 - a state, and said as one
    """The instance cannot go on; the message says why."""


class Left(Exception):  # noqa: N818 - no error
    """SIGTERM came while starting."""


class Supervisor:
    def __init__(self, config: Config, notifier: Notifier) -> None:
        self._config = config
        self._notifier = notifier
        self._metrics = Metrics(config)
        self._state = State(config, notifier, self._metrics)
        port = _free_port()
        self._engine = mlx.Engine(port)
        self._command = mlx.command(config, port)
        self._environment = mlx.environment(config)
        self._tokenizer = Tokenizer(mlx.tokenizer_command(config), self._environment)
        self._vitals = Vitals(
            floor_s=config.hang_floor_s,
            compile_s=config.compile_allowance_s,
            prefill_step=config.prefill_step,
            prompt_concurrency=config.prompt_concurrency,
        )
        self._desk = Desk(config, self._engine, self._tokenizer, self._vitals, self._metrics)
        self._app = App(config, self._state, self._desk, self._metrics, self._refresh_metrics)
        self._leaving = asyncio.Event()
        self._look_now = asyncio.Event()
        self._app.engine_broke = self._look_now.set
        self._link = _link(config)
        self._follower = config.group is not None and config.group.rank > 0
        """A rank above 0: it serves nobody, and rank 0 says when the group is ready."""
        self._process: EngineProcess | None = None
        self._stopped_since: float | None = None

    async def run(self) -> int:
        """Until told to leave (0) or the engine cannot go on (1)."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._leave)
        beat = asyncio.create_task(_beat(self._notifier))
        door = Door(self._app)
        serving = asyncio.create_task(door.serve([listen(Path(self._config.socket))]))
        try:
            await self._start()
            await self._watch()
            await self._drain()
        except Left:
            self._state.move("draining", "asked to stop while starting")
        except Failed as failure:
            await self._fail(str(failure))
            return 1
        finally:
            if self._process is not None:
                await self._process.end(grace_s=ENGINE_GRACE_S)
            await self._tokenizer.close()
            if self._link is not None:
                await self._link.close()
            door.should_exit = True
            await serving
            beat.cancel()
        return 0

    def _leave(self) -> None:
        self._leaving.set()
        self._look_now.set()

    # Start

    async def _start(self) -> None:
        await self._wait_for_gpu()
        await self._meet()
        self._process = await EngineProcess.start(self._command, self._environment)
        self._state.engine_pid = self._process.pid
        self._state.move("loading")
        try:
            warming = asyncio.create_task(self._follow() if self._follower else self._warm())
            await self._while_it_moves(warming)
        finally:
            warming.cancel()
        if self._link is not None and not self._follower:
            self._link.tell_ready()
        self._state.move("ready")
        self._notifier.ready(self._state.words)

    async def _meet(self) -> None:
        """All ranks are there with the same weights, or Failed."""
        if self._link is None:
            return
        try:
            self._link.about["weights"] = await asyncio.to_thread(
                fingerprint, Path(self._config.model)
            )
        except (Incomplete, OSError) as error:
            raise Failed(f"the weights are not whole: {error}") from None
        meeting = asyncio.create_task(self._link.meet())
        deadline = time.monotonic() + self._config.start_timeout_s
        try:
            while not meeting.done():
                if time.monotonic() > deadline:
                    raise Failed(f"the group did not come together: {self._link.words}")
                self._state.progress(self._link.words, extend_s=self._config.start_timeout_s)
                await asyncio.wait({meeting}, timeout=0.5)
                self._raise_if_left()
            meeting.result()
        except Lost as lost:
            raise Failed(str(lost)) from None
        finally:
            meeting.cancel()

    async def _follow(self) -> None:
        assert self._link is not None  # noqa: S101 - a follower has one
        await self._link.ready.wait()

    async def _wait_for_gpu(self) -> None:
        deadline = time.monotonic() + self._config.start_timeout_s
        while why := gpu.busy(self._config.gpu_uuids, self._config.planned_bytes):
            if time.monotonic() > deadline:
                raise Failed(why)
            self._state.progress(why, extend_s=self._config.start_timeout_s)
            await self._sleep(1.0)

    async def _while_it_moves(self, warming: asyncio.Task[None]) -> None:
        """Wait for the first token as long as the engine reads, grows or computes."""
        assert self._process is not None  # noqa: S101 - just started
        whole = max(1, mlx.weights_bytes(Path(self._config.model)))
        patience = self._config.start_timeout_s + self._config.compile_allowance_s
        signs, moved = (0, 0), time.monotonic()
        group = self._config.group
        deadline = moved + group.start_deadline_s if group is not None else None
        if group is not None and self._follower:
            patience = group.start_deadline_s  # it sits in a collective until rank 0 asks
        while not warming.done():
            await asyncio.wait(
                {warming, self._process.exited}, timeout=1.0, return_when=asyncio.FIRST_COMPLETED
            )
            self._raise_if_left()
            if self._process.ended:
                raise Failed(f"the engine {self._process.ended} while starting")
            self._judge_link()
            now = time.monotonic()
            if deadline is not None and now > deadline:
                raise Failed("the group generated no token before its deadline")
            if (seen := self._process.signs()) != signs:
                signs, moved = seen, now
                share = min(100, 100 * seen[0] // whole)
                self._state.progress(
                    f"{share} % of {whole / 1e9:.2f} GB read, {seen[1] >> 20} MiB resident",
                    extend_s=patience,
                )
            elif now - moved > patience:
                raise Failed(f"nothing moved for {patience:.0f} s while {self._state.words}")
        warming.result()

    async def _warm(self) -> None:
        """The first token, the facts, and the pace of a prefill; raises Failed."""
        while True:
            with suppress(EngineBroke):
                if not await self._engine.alive():
                    raise Failed("the engine's generation thread died while starting")
                await self._one_token("1")
                break
            await asyncio.sleep(0.2)
        self._state.move("warming")
        facts = await self._engine.facts()
        if self._link is not None and not facts["batchable"]:
            raise Failed("this model is not served in batches, which a rank group must be")
        self._desk.fingerprint = str(facts["fingerprint"])
        self._metrics.identify(self._config, facts)
        try:
            self._desk.facts = await self._tokenizer.facts(patience_s=self._config.start_timeout_s)
        except Refusal as refusal:
            raise Failed(f"the tokenizer does not start: {refusal}") from None
        # OpenAI's default temperature takes a sampler of its own, which is compiled here.
        await self._one_token("4", temperature=1.0)
        for tokens in PACE_TOKENS:
            length = min(tokens, self._config.context_tokens // 2)
            # Twice: the first one compiles kernels.
            for digit in "23":
                began = time.monotonic()
                await self._one_token(f"{digit} " * length)
                took_s = time.monotonic() - began
            self._vitals.measured(await self._tokenizer.count_text("3 " * length) / took_s)
            if took_s > PACE_S:
                break
        self._metrics.pace.set(self._vitals.pace)
        await self._probe()  # so that the first one that matters compiles nothing any more

    async def _one_token(self, prompt: str, *, temperature: float = 0.0) -> None:
        ask = Ask(prompt=prompt, max_tokens=1, temperature=temperature)
        async with aclosing(self._engine.generate(ask)) as events:
            async for _ in events:
                pass

    # Truth

    async def _watch(self) -> None:
        """Returns when asked to leave; raises Failed with the verdict."""
        if self._follower:
            await self._watch_as_follower()
            return
        probe: asyncio.Task[None] | None = None
        pulse = Pulse(self._engine.alive, every_s=HEALTH_S, patience_s=HEALTH_PATIENCE_S)
        idle_since = time.monotonic()
        try:
            while not self._leaving.is_set():
                at_once = await self._look()
                now = time.monotonic()
                self._judge_process(now)
                if wrong := pulse.feel(now, at_once=at_once):
                    raise Failed(wrong)
                self._judge_streams(now)
                if self._desk.orders:
                    idle_since = now
                if probe is not None and probe.done():
                    probe.result()
                    probe, idle_since = None, now
                if probe is None and now - idle_since > self._config.probe_interval_s:
                    probe = asyncio.create_task(self._probe())
        finally:
            pulse.close()
            if probe is not None:
                probe.cancel()

    async def _watch_as_follower(self) -> None:
        """Its engine speaks to rank 0 only; so its process and the link are all there is to see."""
        while not self._leaving.is_set():
            await self._look()
            self._judge_process(time.monotonic())

    async def _look(self) -> bool:
        """Wait until it is time to look again; whether somebody called for it."""
        assert self._process is not None  # noqa: S101 - started
        called = asyncio.create_task(self._look_now.wait())
        await asyncio.wait(
            {called, self._process.exited}, timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED
        )
        called.cancel()
        at_once = self._look_now.is_set()
        self._look_now.clear()
        return at_once

    def _judge_link(self) -> None:
        if self._link is None:
            return
        if self._link.lost is not None:
            raise Failed(f"the group is broken: {self._link.lost}")
        if self._link.leaving.is_set() and not self._leaving.is_set():
            self._leave()  # the other rank waits until we have drained for it

    def _judge_process(self, now: float) -> None:
        self._judge_link()
        assert self._process is not None  # noqa: S101 - started
        if self._process.ended:
            raise Failed(f"the engine {self._process.ended}")
        self._stopped_since = (self._stopped_since or now) if self._process.stopped else None
        if self._stopped_since and now - self._stopped_since > STOPPED_S:
            raise Failed("the engine is stopped by a signal")

    def _judge_streams(self, now: float) -> None:
        verdict = self._vitals.check(now)
        self._metrics.pace.set(self._vitals.pace)
        if isinstance(verdict, Hung):
            raise Failed(f"the engine hangs: {verdict}")
        for starved in verdict:
            for order in [o for o in self._desk.orders if starved.stream in o.streams]:
                words = f"the engine forgot this request: silent for {starved.silent_s:.0f} s"
                order.abort(unavailable(words, retry_after=1, code="starved"), "starved")
        for order in list(self._desk.orders):
            since = order.blocked_since
            if since is not None and now - since > self._config.slow_client_s:
                order.abort(Refusal(408, "the client reads too slowly"), "slow_client")

    async def _probe(self) -> None:
        """A token from the prompt and one decoded, judged like any other stream."""
        stream = Stream(1, time.monotonic())
        self._vitals.enter(stream, stream.entered)
        try:
            ask = Ask(prompt="1", max_tokens=2)
            async with aclosing(self._engine.generate(ask)) as events:
                async for event in events:
                    self._vitals.sign(stream, event, time.monotonic())
        except EngineBroke as error:
            raise Failed(f"the probe failed: {error}") from None
        finally:
            self._vitals.leave(stream)

    # End

    async def _drain(self) -> None:
        self._state.move("draining")
        self._notifier.stopping(self._state.words)
        deadline = time.monotonic() + self._config.stop_timeout_s
        if self._follower and self._link is not None:
            self._link.tell_leaving()
            # Rank 0 closes the link when it has drained.
            while self._link.lost is None and time.monotonic() < deadline:
                await self._look()
            return
        while self._desk.orders and time.monotonic() < deadline:
            try:
                await self._look()
                self._judge_process(time.monotonic())
                self._judge_streams(time.monotonic())
            except Failed as failure:
                self._abort_all(str(failure))
                break
            self._state.progress(f"{len(self._desk.orders)} requests in flight")
        self._abort_all("the instance is stopping")
        await self._farewell()

    async def _fail(self, reason: str) -> None:
        print(f"guard: {reason}", file=sys.stderr, flush=True)
        self._state.move("failed", reason)
        if self._process is not None:
            await self._process.kill()
        self._abort_all(reason)
        await self._farewell()

    def _abort_all(self, reason: str) -> None:
        for order in list(self._desk.orders):
            verdict = unavailable(reason, retry_after=2, code="engine_failed")
            order.abort(verdict, "engine_failed")

    async def _farewell(self) -> None:
        tasks = {order.task for order in self._desk.orders if order.task is not None}
        if tasks:
            await asyncio.wait(tasks, timeout=FAREWELL_S)

    # Besides

    async def _refresh_metrics(self) -> None:
        if self._state.now != "ready":
            return
        with suppress(EngineBroke, TimeoutError):
            async with asyncio.timeout(1.0):
                self._metrics.memory(await self._engine.facts())

    async def _sleep(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._leaving.wait(), seconds)
        self._raise_if_left()

    def _raise_if_left(self) -> None:
        if self._leaving.is_set():
            raise Left


def _free_port() -> int:
    """A port of our own network namespace: nobody else can take it in between."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def _link(config: Config) -> Link | None:
    if config.group is None:
        return None
    settings = (
        "slug", "served_name", "engine", "context_tokens", "prompt_concurrency",
        "decode_concurrency", "prefill_step", "prompt_cache_entries",
    )  # fmt: skip
    about = {name: getattr(config, name) for name in settings}
    return Link(config.group, about | {"runtime": Path(config.runtime).name})


async def _beat(notifier: Notifier) -> None:
    """systemd's watchdog covers this event loop: a third of its patience between two beats."""
    period_s = int(os.environ.get("WATCHDOG_USEC", "0")) / 3e6
    while period_s:
        notifier.alive()
        await asyncio.sleep(period_s)
