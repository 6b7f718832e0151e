"""A chunk as a plan has it, beside the same chunk of all layers recorded at that very point.

    python benchmarks/planner_steps.py [--write docs/evidence/planner-steps.md] [NAME …]

For architectures with a part of the graph for each token: a plan has some of their layers, at the
steps that it sets. Here small models of twelve layers are recorded whole, and worked off as a CPU
does and in a GPU's command buffers. No GPU is asked.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import statistics
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import planner_models
from planner.demand import CPU, CUDA
from planner.hollow import model, passes, program, recording, work
from planner.hollow.ways import BY_TOKEN
from planner.program import Point, Program
from planner.traced import Processor, joined

LAYERS = 12
NAMES = (
    "bailing_moe_linear", "bailing_moe_v3", "jamba", "kimi_linear", "mamba", "olmo_hybrid",
    "qwen3_next", "recurrent_gemma", "rwkv7",
)  # fmt: skip
BATCH, CONTEXTS = 4, (520, 32768)
RESTS = (2, 4, 8, 12, 16, 48, 96)  # tokens
WAYS: dict[str, tuple[Processor, bool | None]] = {
    "": ("cpu", None), " kernels": ("gpu", False), " fused": ("gpu", True),
}  # with attention  # fmt: skip
PAGE = """\
# Chunks of some layers beside chunks of all

Made by `benchmarks/planner_steps.py` with mlx {mlx} and mlx-lm {mlx_lm}: small models of {layers}
layers whose graph has a part for each token. How far a plan's chunk, of the first layers (`some`),
is from one recorded of all layers at that very point: the least and the most of {points} each, of
{batch} uneven prompts, {steps} tokens of each and {contexts} in their caches. No GPU was asked:
what is compared is the way from some layers to all. Of all {count}: {least:+.1f} to {most:+.1f} %,
median {median:+.1f} %.

| architecture | some | on a CPU | in a GPU's command buffers | the same, attention as one kernel |
|---|---|---|---|---|
{rows}

Rests of prompts, of {rests} tokens: how far what a plan has, of a step of {steps} as well as of the
rest, is from such a rest recorded, at least.

| architecture | on a CPU | in a GPU's command buffers | the same, attention as one kernel |
|---|---|---|---|
{rests_rows}
"""


class Seen(NamedTuple):
    """Of one architecture: layers that were recorded, and percent over what all of them take."""

    some: int
    over: dict[str, list[float]]
    rests: dict[str, list[float]]


def config(name: str) -> dict[str, Any]:
    """That of the small model, three times as deep."""
    made = planner_models.config(name)
    short = made["num_hidden_layers"]
    for key, value in made.items():
        if isinstance(value, list) and len(value) == short:
            made[key] = value * (LAYERS // short)
    if linear := made.get("linear_attn_config"):
        full = [at for at in range(1, LAYERS + 1) if at % 4 == 0]
        rest = [at for at in range(1, LAYERS + 1) if at % 4]
        made["linear_attn_config"] = {**linear, "kda_layers": rest, "full_attn_layers": full}
    return {**made, "num_hidden_layers": LAYERS}


def seen(name: str) -> Seen:
    """Every point of one architecture."""
    values = config(name)
    with tempfile.TemporaryDirectory() as directory, program.cpu():
        planner_models.write(Path(directory), name, values)
        made, _ = model.load(Path(directory))
        server = passes.Passes(made, model.examples(made)[0], merged=model.mergeable(made))
        chunks: program.Programs = {}
        for way, (processor, _) in WAYS.items():
            prompts, _ = program.parts(server, processor, batched=True, ends=[way])
            parts = [prompts[f"{part}{way}"]()[f"chunk{way}"] for part in ("some", "chunks")]
            one, other = ({f"chunk{way}": work.packed(part)} for part in parts)
            chunks |= joined(one, other)
        with server.fewer() as some:
            kept = len(some.caches)
        assert len(made.layers) == LAYERS
        return Seen(
            kept,
            {way: list(over(chunks, server, way)) for way in WAYS},
            {way: list(over(chunks, server, way, rests=True)) for way in WAYS},
        )


def over(
    planned: program.Programs, server: passes.Passes, way: str, *, rests: bool = False
) -> Iterator[float]:
    """Percent by which each chunk is planned above what is recorded of all layers.

    Or each rest of a prompt: a plan has all that is longer as well, up to its own step.
    """
    processor, attention = WAYS[way]
    behind = (CPU if attention is None else CUDA).behind
    chunk = Program.from_json(planned[f"chunk{way}"])
    for step, context in product(RESTS if rests else BY_TOKEN, CONTEXTS):
        point = Point(BATCH, step, max(step, context))
        with (
            contextlib.nullcontext()
            if attention is None
            else recording.kernels(attention=attention)
        ):
            graph = server.uneven(point)
        whole = Program(**work.program(graph, work.as_recorded(graph), processor))
        known = set(chunk.steps) if rests else {step}  # without what a rest may take more
        peaks = [
            Program(steps={at: chunk.steps[at]}).peak(behind, point._replace(step=at))
            for at in known
        ]
        yield 100 * (max(peaks) / whole.peak(behind, point) - 1)


def main() -> None:
    """Print the page, and write it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--write", type=Path)
    asked = parser.parse_args()
    rows, rests_rows, every = [], [], []
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        found_of_all = pool.map(seen, asked.names)
        for name, (some, found, rests) in zip(asked.names, found_of_all, strict=True):
            cells = [f"{min(it):+.1f} to {max(it):+.1f} %" for it in found.values()]
            rows.append(f"| {name} | {some} | " + " | ".join(cells) + " |")
            least = [f"{min(it):+.1f} %" for it in rests.values()]
            rests_rows.append(f"| {name} | " + " | ".join(least) + " |")
            print(rows[-1], rests_rows[-1], file=sys.stderr, flush=True)
            every += [one for it in found.values() for one in it]
    page = PAGE.format(
        mlx=version("mlx"),
        mlx_lm=version("mlx-lm"),
        layers=LAYERS,
        points=len(BY_TOKEN) * len(CONTEXTS),
        batch=BATCH,
        steps=" or ".join(map(str, sorted(BY_TOKEN))),
        contexts=" or ".join(f"{context:,}" for context in CONTEXTS),
        count=len(every),
        least=min(every),
        most=max(every),
        median=statistics.median(every),
        rows="\n".join(rows),
        rests=", ".join(map(str, RESTS)),
        rests_rows="\n".join(rests_rows),
    )
    print(page)
    if asked.write:
        asked.write.write_text(page)


if __name__ == "__main__":
    main()
