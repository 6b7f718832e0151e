"""``python -m guard CONFIG``: run one engine and stand in front of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

from guard import upstream
from guard.app import App
from guard.config import Config, ConfigError, load
from guard.door import Door, listen
from guard.engines import mlx
from guard.notify import Notifier
from guard.process import EngineProcess

EX_CONFIG = 78  # sysexits(3); the unit does not restart on it


def free_port() -> int:
    """A port of our own network namespace: nobody else can take it in between."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def first_token(config: Config, port: int) -> None:
    body = json.dumps({"prompt": "1", "max_tokens": 1, "stream": True}).encode()
    while True:
        try:
            async with upstream.request(port, "POST", "/v1/completions", body) as answer:
                text = await answer.read()
                if answer.status == 200 and b"[DONE]" in text:  # noqa: PLR2004
                    return
        except upstream.UpstreamError:
            pass
        await asyncio.sleep(0.2)


def tell(config: Config, state: str, engine: EngineProcess) -> None:
    path = Path(config.run_dir, "state.json")
    new = path.with_suffix(".new")
    new.write_text(
        json.dumps(
            {
                "state": state,
                "pid": os.getpid(),
                "engine_pid": engine.pid,
                "since": time.time(),
                "inputs": config.inputs,
            }
        )
    )
    new.replace(path)


async def run(config: Config, notifier: Notifier) -> int:
    Path(config.run_dir, "inputs").write_text(config.inputs + "\n")
    port = free_port()
    engine = await EngineProcess.start(mlx.command(config, port), mlx.environment(config))
    app = App(config, port)
    door = Door(app)
    serving = asyncio.create_task(door.serve([listen(Path(config.socket))]))
    leaving = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, leaving.set)
    loop.add_signal_handler(signal.SIGINT, leaving.set)
    left = asyncio.create_task(leaving.wait())
    token = asyncio.create_task(first_token(config, port))
    tell(config, "loading", engine)

    beat = asyncio.create_task(watchdog(notifier))
    last, moved = (0, 0), time.monotonic()
    while not token.done() and not left.done() and not engine.exited.done():
        await asyncio.wait(
            {token, left, engine.exited}, timeout=1, return_when=asyncio.FIRST_COMPLETED
        )
        if (signs := engine.signs()) != last:
            last, moved = signs, time.monotonic()
            notifier.extend_start(config.start_timeout_s, f"loading: {signs[0] >> 20} MiB read")
        if time.monotonic() - moved > config.start_timeout_s:
            print("guard: the engine neither reads nor generates", file=sys.stderr)
            await engine.kill()
            return 1
    if token.done():
        app.state = "ready"
        tell(config, "ready", engine)
        notifier.ready("ready")
        await asyncio.wait({left, engine.exited}, return_when=asyncio.FIRST_COMPLETED)
    token.cancel()
    if engine.exited.done():
        app.state = "dead"
        print(f"guard: the engine {engine.ended}", file=sys.stderr)
        status = 1
    else:
        app.state = "draining"
        notifier.stopping("draining")
        deadline = time.monotonic() + config.stop_timeout_s
        while app.running and time.monotonic() < deadline and not engine.exited.done():
            await asyncio.sleep(0.05)
        await engine.end(grace_s=5)
        status = 0
    beat.cancel()
    door.should_exit = True
    await serving
    return status


async def watchdog(notifier: Notifier) -> None:
    usec = int(os.environ.get("WATCHDOG_USEC", "0"))
    while usec:
        notifier.alive()
        await asyncio.sleep(usec / 3e6)


def main() -> int:
    if len(sys.argv) != 2:  # noqa: PLR2004
        print("usage: python -m guard CONFIG", file=sys.stderr)
        return EX_CONFIG
    try:
        config = load(Path(sys.argv[1]))
    except ConfigError as error:
        print(f"guard: {error}", file=sys.stderr)
        return EX_CONFIG
    notifier = Notifier.from_environment()
    with contextlib.suppress(KeyboardInterrupt):
        return asyncio.run(run(config, notifier))
    return 1


if __name__ == "__main__":
    sys.exit(main())
