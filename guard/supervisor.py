"""The life of one instance: start, truth, and an end that says why."""

from __future__ import annotations

import asyncio
import os
import signal
import time
import traceback
from pathlib import Path

from guard.config import Config
from guard.door import Door, listen
from guard.leave import drain, fail
from guard.notify import Notifier
from guard.parts import Failed, Left, Parts
from guard.start import start
from guard.watch import watch

ENGINE_GRACE_S = 3.0


async def supervise(config: Config, notifier: Notifier) -> int:
    """Until told to leave (0) or the engine cannot go on (1)."""
    parts = Parts(config, notifier)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, parts.leave)
    beat = asyncio.create_task(_beat(notifier))
    door = Door(parts.app)
    serving = asyncio.create_task(door.serve([listen(Path(config.socket))]))
    try:
        await start(parts)
        await watch(parts)
        await drain(parts)
    except Left:
        parts.state.move("draining", "asked to stop while starting")
    except Failed as failure:
        await fail(parts, str(failure))
        return 1
    except Exception as error:  # noqa: BLE001 - a mistake of ours, which must be told as well
        traceback.print_exc()
        await fail(parts, f"the guard made a mistake: {error!r}")
        return 1
    finally:
        if parts.process is not None:
            await parts.process.end(grace_s=ENGINE_GRACE_S)
        await parts.tokenizer.close()
        if parts.link is not None:
            await parts.link.close()
        door.close(within_s=parts.drained_by - time.monotonic())
        await serving
        beat.cancel()
    return 0


async def _beat(notifier: Notifier) -> None:
    """systemd's watchdog covers this event loop: a third of its patience between two beats."""
    period_s = int(os.environ.get("WATCHDOG_USEC", "0")) / 3e6
    while period_s:
        notifier.alive()
        await asyncio.sleep(period_s)
