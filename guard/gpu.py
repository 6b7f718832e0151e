"""Is the GPUs' memory really free?  Asked of NVML before an engine is started."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import Future

import pynvml


def ask(uuids: Sequence[str], needed_bytes: int | None) -> asyncio.Future[str | None]:
    """``busy``, asked in a thread that nobody waits for at the end.

    A driver may hang for ever: the loop goes on, and the process can end, which asyncio's own
    threads would hold up.
    """
    told: Future[str | None] = Future()
    told.set_running_or_notify_cancel()  # whoever gives up waiting takes nothing from the thread

    def work() -> None:
        try:
            told.set_result(busy(uuids, needed_bytes))
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            told.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return asyncio.wrap_future(told)


def busy(uuids: Sequence[str], needed_bytes: int | None) -> str | None:
    """Why the engine should not start yet, in words; ``None`` when it may.

    A GPU that is not there (yet) counts, and so does one whose memory an engine that just died has
    not given back: with ``needed_bytes`` for all of them together each must have its part free,
    without it nobody may be computing there.
    """
    if not uuids:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return f"the NVIDIA driver does not answer: {error}"
    try:
        return next((why for uuid in uuids if (why := _busy(uuid, needed_bytes, len(uuids)))), None)
    finally:
        pynvml.nvmlShutdown()


def _busy(uuid: str, needed_bytes: int | None, gpus: int) -> str | None:
    try:
        device = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        memory = pynvml.nvmlDeviceGetMemoryInfo(device)
        holders = pynvml.nvmlDeviceGetComputeRunningProcesses(device)
    except pynvml.NVMLError as error:
        return f"GPU {uuid}: {error}"
    pids = ", ".join(str(holder.pid) for holder in holders) or "nobody that computes"
    if needed_bytes is None:
        return f"GPU {uuid}: held by {pids}" if holders else None
    if (needed := needed_bytes // gpus) > memory.free:
        return (
            f"GPU {uuid}: {memory.free >> 20} MiB free, {needed >> 20} MiB needed; held by: {pids}"
        )
    return None
