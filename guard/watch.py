"""Is it still true that it can generate?  Every look at the engine, and every verdict."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing

from guard.ask import Ask, EngineBroke
from guard.errors import Refusal, unavailable
from guard.parts import Failed, Parts
from guard.pulse import Pulse
from guard.vitals import Hung, Stream

HEALTH_S = 1.0  # between two questions whether its generation thread lives
HEALTH_PATIENCE_S = 10.0  # it answered in 4 ms during the longest prefill
EXIT_S = 0.2  # a connection breaks a moment before its process is known to be dead
TOKENIZER_FAILURES = 3  # in a row; no request can be answered without it
STOPPED_S = 2.0  # a process stopped by a signal for this long is no debugger's visit


async def watch(parts: Parts) -> None:
    """Returns when asked to leave; raises Failed with the verdict."""
    if parts.follower:
        await _watch_as_follower(parts)
        return
    assert parts.process is not None  # noqa: S101 - started
    probing: asyncio.Task[None] | None = None
    pulse = Pulse(parts.engine.alive, every_s=HEALTH_S, patience_s=HEALTH_PATIENCE_S)
    quiet_since = time.monotonic()
    try:
        while not parts.leaving.is_set():
            at_once = await parts.look()
            now = time.monotonic()
            judge_process(parts, now)
            if wrong := pulse.feel(now, at_once=at_once):
                await asyncio.wait({parts.process.exited}, timeout=EXIT_S)
                judge_process(parts, now)  # whose word says more, if it is dead
                parts.broke_by_itself = True
                raise Failed(wrong)
            judge_streams(parts, now)
            if parts.tokenizer.failures >= TOKENIZER_FAILURES:
                raise Failed("the tokenizer failed, and again when it was started anew")
            # Not by orders: of clients that give up soon and ask again nobody hears how long the
            # engine has said nothing.  The probe waits.
            quiet_since = max(quiet_since, parts.vitals.heard)
            if probing is not None and probing.done():
                parts.broke_by_itself = probing.exception() is not None
                probing.result()
                probing, quiet_since = None, now
            if probing is None and now - quiet_since > parts.config.probe_interval_s:
                probing = asyncio.create_task(probe(parts))
    finally:
        pulse.close()
        if probing is not None:
            probing.cancel()


async def _watch_as_follower(parts: Parts) -> None:
    """Its engine speaks to rank 0 only; so its process and the link are all there is to see."""
    while not parts.leaving.is_set():
        await parts.look()
        judge_process(parts, time.monotonic())


def judge_link(parts: Parts) -> None:
    if parts.link is None:
        return
    if parts.link.lost is not None:
        raise Failed(f"the group is broken: {parts.link.lost}")
    if parts.link.leaving.is_set() and not parts.leaving.is_set():
        parts.leave()  # the other rank waits until we have drained for it


def judge_process(parts: Parts, now: float) -> None:
    judge_link(parts)
    assert parts.process is not None  # noqa: S101 - started
    if parts.process.ended:
        raise Failed(f"the engine {parts.process.ended}")
    parts.stopped_since = (parts.stopped_since or now) if parts.process.stopped else None
    if parts.stopped_since and now - parts.stopped_since > STOPPED_S:
        raise Failed("the engine is stopped by a signal")


def judge_streams(parts: Parts, now: float) -> None:
    verdict = parts.vitals.check(now)
    parts.metrics.pace.set(parts.vitals.pace)
    if isinstance(verdict, Hung):
        raise Failed(f"the engine hangs: {verdict}")
    for starved in verdict:
        for order in [o for o in parts.desk.orders if starved.stream in o.streams]:
            words = f"the engine forgot this request: silent for {starved.silent_s:.0f} s"
            order.abort(unavailable(words, retry_after=1, code="starved"), "starved")
    for order in list(parts.desk.orders):
        since = order.unread_since
        if since is not None and now - since > parts.config.slow_client_s:
            order.abort(Refusal(408, "the client reads too slowly"), "slow_client")


async def probe(parts: Parts) -> None:
    """A token from the prompt and one decoded, judged like any other stream; its prompt counted.

    Where clients wait, the tokenizer answers them, or fails at that, and may take long over it.
    """
    if not parts.desk.orders:
        try:
            await parts.tokenizer.count_text("1", most=1)
        except Refusal as refusal:
            raise Failed(f"the probe failed: {refusal}") from None
    stream = Stream(1, time.monotonic())
    parts.vitals.enter(stream, stream.entered)
    try:
        ask = Ask(prompt="1", max_tokens=2)
        async with aclosing(parts.engine.generate(ask)) as events:
            async for event in events:
                parts.vitals.sign(stream, event, time.monotonic())
    except EngineBroke as error:
        raise Failed(f"the probe failed: {error}") from None
    finally:
        parts.vitals.leave(stream, time.monotonic())
