"""MLX's memory under a staggered load with prefixes kept: through the launcher, and without it.

    nice .venv/bin/python benchmarks/guard_memory.py --minutes 30 --out docs/evidence/guard-memory

Two engines side by side under the same seeded load: eight clients, prompts that share beginnings,
of all lengths up to the context.  Every five seconds MLX's own active and peak memory.  Writes
OUT.csv and OUT.png; the dashed line is what the planner says of this model under these settings.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import random
import sys
import tempfile
import time
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from guard import upstream
from hub import tracing
from hub.making import Directory
from planner.demand import CPU, Settings, need
from planner.traced import Rank, Traced
from tests.guard.models import make_tiny_llama

LAYERS, HEADS, HIDDEN = 4, 4, 256
CONTEXT, BATCH, ENTRIES = 1024, 8, 10
STEP = 64  # small, so that what is kept stands out from what a step takes
NAMES = ("through the launcher", "without it")
BARE = """
import importlib.util
spec = importlib.util.spec_from_file_location("launcher", {launcher!r})
mlx_launcher = importlib.util.module_from_spec(spec)
spec.loader.exec_module(mlx_launcher)
from mlx_lm.models.cache import LRUPromptCache
mlx_launcher.KeptPrefixes = LRUPromptCache
mlx_launcher.main()
"""


async def ask(socket: str, path: str, body: dict[str, object]) -> None:
    async with upstream.request(socket, "POST", path, json.dumps(body).encode()) as answer:
        while await answer.block():
            pass


async def client(socket: str, seed: int, deadline: float, done: list[int]) -> None:
    chance = random.Random(seed)
    beginnings = [random.Random(number).randbytes(700).hex() for number in range(4)]
    while time.monotonic() < deadline:
        own = chance.randbytes(8).hex()
        prompt = chance.choice(beginnings)[: chance.randint(8, 700)] + own
        tokens = min(chance.randint(1, 200), CONTEXT - len(prompt))
        body = {"prompt": prompt, "max_tokens": tokens, "stream": True, "temperature": 1.0}
        try:
            await ask(socket, "/v1/completions", body)
            done[0] += 1
        except upstream.UpstreamError as error:
            print(error, file=sys.stderr)
        await asyncio.sleep(chance.uniform(0, 3))


async def facts(socket: str) -> dict[str, int]:
    async with upstream.request(socket, "GET", "/guard") as answer:
        return dict(json.loads(await answer.read()))


async def ready(socket: str) -> None:
    while True:
        try:
            await ask(socket, "/v1/completions", {"prompt": "1", "max_tokens": 1, "stream": True})
        except upstream.UpstreamError:
            await asyncio.sleep(0.3)
        else:
            return


def planned(model: Path) -> int:
    """Bytes that MLX counts at the worst moment, as the plan of a host would have it."""
    directory = Directory.read(model)
    traced = tracing.trace(directory.texts, directory.headers(), "cpu", sizes=[1])
    assert isinstance(traced, Traced), traced
    rank = traced.rank(1)
    assert isinstance(rank, Rank), rank
    settings = Settings(
        prompt_concurrency=BATCH,
        decode_concurrency=BATCH,
        prefill_step=STEP,
        prompt_cache_entries=ENTRIES,
    )
    return need(traced, rank, settings, CONTEXT, CPU).mlx


async def measure(minutes: float, out: Path) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        model = make_tiny_llama(Path(temporary, "model"), hidden=HIDDEN, layers=LAYERS, heads=HEADS)
        plan = planned(model)
        bare = Path(temporary, "bare.py")
        engines = ROOT / "guard/engines"
        bare.write_text(  # noqa: ASYNC240 - before anything runs
            BARE.format(launcher=str(engines / "mlx_launcher.py"))
        )
        sockets = {name: f"{temporary}/{at}.sock" for at, name in enumerate(NAMES)}
        scripts = dict(zip(NAMES, (engines / "mlx_launcher.py", bare), strict=True))
        flags = ["--model", model, "--prompt-concurrency", BATCH, "--decode-concurrency", BATCH,
                 "--prompt-cache-size", ENTRIES, "--prefill-step-size", STEP,
                 "--log-level", "ERROR"]  # fmt: skip
        children = [
            await asyncio.create_subprocess_exec(
                sys.executable, "-I", str(script), *map(str, flags), "--guard-socket", sockets[name]
            )
            for name, script in scripts.items()
        ]
        try:
            await asyncio.gather(*map(ready, sockets.values()))
            rows = await load(sockets, minutes)
        finally:
            for child in children:
                child.kill()
                await child.wait()
    with out.with_suffix(".csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [["engine", "seconds", "active_bytes", "peak_bytes", "requests"], *rows]
        )
    draw(rows, plan, out.with_suffix(".png"))
    for name in NAMES:
        last = [row for row in rows if row[0] == name][-1]
        print(f"{name}: active {last[2] / 1e6:.0f} MB, peak {last[3] / 1e6:.0f} MB at the end, "
              f"{last[4]} requests; plan {plan / 1e6:.0f} MB")  # fmt: skip


async def load(sockets: dict[str, str], minutes: float) -> list[list[object]]:
    began = time.monotonic()
    deadline = began + minutes * 60
    done = {name: [0] for name in sockets}
    clients = [
        asyncio.create_task(client(socket, seed, deadline, done[name]))
        for name, socket in sockets.items()
        for seed in range(BATCH)
    ]
    rows: list[list[object]] = []
    while time.monotonic() < deadline:
        await asyncio.sleep(5)
        for name, socket in sockets.items():
            told = await facts(socket)
            seconds = round(time.monotonic() - began, 1)
            rows.append([name, seconds, told["active_bytes"], told["peak_bytes"], done[name][0]])
    for task in clients:
        task.cancel()
    await asyncio.gather(*clients, return_exceptions=True)
    return rows


def draw(rows: list[list[object]], plan: int, path: Path) -> None:
    figure, axes = plt.subplots(figsize=(9, 4.5))
    for name, colour in (("without it", "tab:red"), ("through the launcher", "tab:blue")):
        mine = [row for row in rows if row[0] == name]
        minutes = [row[1] / 60 for row in mine]
        axes.plot(minutes, [row[2] / 1e6 for row in mine], colour, lw=0.7, label=f"active, {name}")
        axes.plot(minutes, [row[3] / 1e6 for row in mine], colour, ls=":", label=f"peak, {name}")
    axes.axhline(plan / 1e6, color="black", ls="--", label="the plan's figure")
    axes.set(xlabel="minutes", ylabel="MB", title="MLX's memory under a staggered load (CPU)")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.15))
    figure.tight_layout()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--out", type=Path, default=ROOT / "docs/evidence/guard-memory")
    given = parser.parse_args()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    asyncio.run(measure(given.minutes, given.out))
