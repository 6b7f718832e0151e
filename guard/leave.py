"""An end that loses nobody silently: drained when asked to stop, with words when it fails."""

from __future__ import annotations

import asyncio
import sys
import time

from guard.errors import unavailable
from guard.parts import Failed, Parts
from guard.watch import judge_process, judge_streams

FAREWELL_S = 1.0  # for the last words to clients in flight


async def drain(parts: Parts) -> None:
    parts.state.move("draining")
    parts.notifier.stopping(parts.state.words)
    deadline = parts.drained_by = time.monotonic() + parts.config.stop_timeout_s
    if parts.follower and parts.link is not None:
        parts.link.tell_leaving()
        # Rank 0 closes the link when it has drained.
        while parts.link.lost is None and time.monotonic() < deadline:
            if parts.process is not None and parts.process.ended:
                break
            await parts.look()
        return
    while parts.desk.orders and time.monotonic() < deadline:
        try:
            await parts.look()
            judge_process(parts, time.monotonic())
            judge_streams(parts, time.monotonic())
        except Failed as failure:
            _abort_all(parts, str(failure))
            break
        parts.state.progress(f"{len(parts.desk.orders)} requests in flight")
    _abort_all(parts, "the instance is stopping")
    await _farewell(parts)


async def fail(parts: Parts, reason: str) -> None:
    print(f"guard: {reason}", file=sys.stderr, flush=True)
    parts.state.move("failed", reason)
    _abort_all(parts, reason)  # before their streams break, which would say less
    if parts.process is not None:
        if parts.process.ended or parts.broke_by_itself:
            # Should it have been over a kernel, it would be at every start.  One that cannot be
            # loaded is an exception in the generation thread, which the process outlives; that we
            # ended it for a hang, a signal or a lost rank is no kernel's doing.
            parts.engine_module.forget_kernels(parts.config)
        await parts.process.kill()
    await _farewell(parts)


def _abort_all(parts: Parts, reason: str) -> None:
    for order in list(parts.desk.orders):
        verdict = unavailable(reason, retry_after=2, code="engine_failed")
        order.abort(verdict, "engine_failed")


async def _farewell(parts: Parts) -> None:
    tasks = {order.task for order in parts.desk.orders if order.task is not None}
    if tasks:
        await asyncio.wait(tasks, timeout=FAREWELL_S)
