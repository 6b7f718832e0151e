"""How long a plan takes, and how that grows with hosts and models; a trace's time and memory.

python benchmarks/planner_speed.py [--plot docs/evidence/planner-speed.svg]
python benchmarks/planner_speed.py --traces [--against CHECKOUT] [--rounds 5] [NAME …]
python benchmarks/planner_speed.py --locked [--rounds 5] [NAME …]
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import planner_published
from benchmarks.published_models import MODELS
from hub import tracing
from planner.declared import Gpu, Host, Model
from planner.placement import place
from planner.program import Program
from planner.traced import Kind, Processor, Rank, Traced

GIB = 2**30
CARD = Gpu(name="NVIDIA H200", memory_bytes=143771 * 2**20, compute_capability="9.0")
PROGRAM = Program(
    runs=(
        (
            tuple(({"BS": at * 10**4}, {"BS": at * 10**4}, {"": 10**7}, 1) for at in range(40)),
            tuple(range(40)) * 70,
        ),
    ),
)

PROGRAMS = (
    *(f"{name} {way}" for name in ("chunk", "admit", "stay") for way in ("kernels", "fused")),
    "join",
    "roll",
)


class Known:
    """A lock in which every model is known, and read once."""

    def __init__(self) -> None:
        self.known = {size: self.of(size) for size in range(10)}

    def traced(self, model: Model, processor: Processor, *, mlx_lm: str | None = None) -> Traced:
        """By the model's number."""
        del processor, mlx_lm
        return self.known[int(model.name) % 10]

    @staticmethod
    def of(size: int) -> Traced:
        """Sizes from 2 to 20 GiB."""
        weights = (2 + size * 2) * GIB
        ranks = {
            size: Rank(
                weights=weights // size,
                kinds=(Kind(kind="kv", count=32, token_bytes=4096 // size),),
            )
            for size in (1, 2, 4, 8)
        }
        return Traced(
            mlx_lm="0.32.2",
            mlx="0.32.4",
            model_type="llama",
            layers=32,
            parameters=weights // 2,
            alone="",
            context_max=131072,
            head_dims=(128,),
            dtype="bfloat16",
            logits_row_bytes=300000,
            loading=0,
            ranks=ranks,
            programs=dict.fromkeys(PROGRAMS, PROGRAM),
        )


def hosts(number: int, models: int) -> list[Host]:
    """So many hosts of eight H200 with so many models each."""
    return [
        Host(
            name=f"h{at}",
            gpus=(CARD,) * 8,
            models=tuple(
                Model(path=f"/m/{it}", name=str(it), context=8192) for it in range(models)
            ),
        )
        for at in range(number)
    ]


def seconds(number: int, models: int) -> float:
    """Processor time of one plan."""
    data = hosts(number, models)
    start = time.process_time()
    place(data, Known())
    return time.process_time() - start


def trace(
    texts: dict[str, bytes], headers: dict[str, Any], processor: Processor, root: Path = ROOT
) -> tuple[int, float, int]:
    """Layers, seconds by the clock of one cold trace, and the most that its process held in MB.

    By the tracing program of the checkout ``root``, which may be another one.
    """
    forked = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(1, mp_context=forked) as fresh:
        return fresh.submit(_trace, texts, headers, processor, root).result()


def _trace(
    texts: dict[str, bytes], headers: dict[str, Any], processor: Processor, root: Path
) -> tuple[int, float, int]:
    """In a process that has no other children: the most is over all that it ever had."""
    tracing.ROOT = root
    start = time.perf_counter()
    traced = tracing.trace(texts, headers, processor)
    taken = time.perf_counter() - start
    assert isinstance(traced, Traced), traced
    most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 // 10**6
    return traced.layers, taken, most


def traces(names: Sequence[str], rounds: int, against: Path | None) -> None:
    """A table of models whose configurations are published, traced as often for each, in turn.

    With ``against``, another checkout, in turn with a trace of its own, and what of its time ours
    takes, in the median.
    """
    checkpoints = {name: planner_published.checkpoint(name) for name in names}
    both: tuple[Processor, ...] = ("gpu", "cpu")
    every = [(name, processor) for name in names for processor in both]
    seen: dict[tuple[str, str], list[tuple[int, float, int]]] = {one: [] for one in every}
    other: dict[tuple[str, str], list[float]] = {one: [] for one in every}
    for _ in range(rounds):
        for name, processor in every:
            seen[name, processor].append(trace(*checkpoints[name], processor))
            if against:
                theirs = trace(*checkpoints[name], processor, against)
                other[name, processor].append(theirs[1])
    print("| model | layers | for a GPU, seconds | for a CPU | MB |\n|---|---|---|---|---|")
    for name in names:
        found = [seen[name, processor] for processor in both]
        most = max(held for rows in found for _, _, held in rows)
        cells = " | ".join(_spread([taken for _, taken, _ in rows]) for rows in found)
        print(f"| {name} | {found[0][0][0]} | {cells} | {most} |")
    for (name, processor), theirs in other.items() if against else ():
        ours = [taken for _, taken, _ in seen[name, processor]]
        ratio = statistics.median(ours) / statistics.median(theirs)
        print(f"{name}, {processor}: {ratio:.2f} of {_spread(theirs)} s")


def locked(names: Sequence[str], rounds: int) -> None:
    """A table of the same: `./plan.py` by the clock, for one model that the lock has."""
    seen: dict[str, list[float]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as directory:
        lock = Path(directory, "models.lock")
        planner_published.lock(lock, list(names))
        for _ in range(rounds):
            for name in names:
                source = ["--model", f"published/{name}@{'0' * 40}", "--lock", str(lock)]
                start = time.perf_counter()
                run = [sys.executable, ROOT / "plan.py", *source, "--gpu", "NVIDIA H200"]
                done = subprocess.run([*run, "--gpus", "4"], capture_output=True, check=False)
                seen[name].append(time.perf_counter() - start)
                assert done.returncode in {0, 2}, done.stderr  # 2: it fits nowhere
    print("| model | seconds: median (least to most) |\n|---|---|")
    for name, taken in seen.items():
        print(f"| {name} | {_spread(taken)} |")


def _spread(taken: Sequence[float]) -> str:
    return f"{statistics.median(taken):.2f} ({min(taken):.2f} to {max(taken):.2f})"


def main() -> None:
    """Print the figures, and draw them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--traces", action="store_true")
    parser.add_argument("--against", type=Path)
    parser.add_argument("--locked", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("names", nargs="*")
    asked = parser.parse_args()
    if asked.traces or asked.locked:
        names = asked.names or list(MODELS)
        if asked.traces:
            traces(names, asked.rounds, asked.against)
        else:
            locked(names, asked.rounds)
        return
    by_hosts = {n: seconds(n, 10) for n in (1, 10, 25, 50, 100, 200)}
    by_models = {n: seconds(10, n) for n in (1, 5, 10, 20, 40)}
    print("| hosts, 10 models each | seconds |\n|---|---|")
    for number, taken in by_hosts.items():
        print(f"| {number} | {taken:.2f} |")
    print("\n| models on each of 10 hosts | seconds |\n|---|---|")
    for number, taken in by_models.items():
        print(f"| {number} | {taken:.2f} |")
    print(f"\n{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB resident")
    if asked.plot:
        figure, axes = plt.subplots(1, 2, figsize=(9, 3))
        for axis, rows, label in (
            (axes[0], by_hosts, "hosts, 10 models each"),
            (axes[1], by_models, "models on each of 10 hosts"),
        ):
            axis.plot(list(rows), list(rows.values()), marker="o")
            axis.set_xlabel(label)
            axis.grid(visible=True)
        axes[0].set_ylabel("seconds of one core")
        figure.tight_layout()
        figure.savefig(asked.plot)


if __name__ == "__main__":
    main()
