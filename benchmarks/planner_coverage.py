"""Which architectures of mlx-lm can be traced, and why the others cannot.

    python benchmarks/planner_coverage.py [--write docs/evidence/planner-coverage.md] [NAME …]

Each is made small and random (``planner_models.py``); the page is of all, or of those named.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import mlx.core as mx

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import planner_models
from hub import tracing
from planner.traced import PROCESSORS, Traced

PAGE = """\
# Architectures that can be traced

Made by `benchmarks/planner_coverage.py --write`: a small model of every architecture module of
mlx-lm {mlx_lm}, {total} of them. {counts}. The caches that a traced one makes are counted by kind.

`refused` is what `plan.py` says of such a model on every host, with this reason: mlx-lm itself
cannot load or run it there, its graph cannot be recorded, or its cache is of a class that the
replay does not know, which is never guessed. `(by step)`: the graph depends on the tokens of a
step.

| architecture | verdict |
|---|---|
{rows}
"""
# What no configuration tells.
WANTING = {"prism_hadamard_qwen35": "its pack's manifest of modules is part of no configuration"}


def verdict(name: str) -> tuple[str, str]:
    """Whether the small model of ``name`` can be traced, and what with, or why not.

    Traced as ``plan.py`` does it: in a child process, from the header and the configuration.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            values = planner_models.config(name)
            made = planner_models.model(name, values)
    except SystemExit:
        return "refused", f"its module ends the process: {said.getvalue().strip()}"
    except Exception as error:  # noqa: BLE001 -- whatever mlx-lm raises is the reason
        return "refused", WANTING.get(name) or f"{type(error).__name__}: {error}"
    texts = {"config.json": json.dumps(values).encode()}
    header = planner_models.lay_out(planner_models.tensors(made))
    headers = {"model.safetensors": header}
    traces = [tracing.trace(texts, headers, processor) for processor in PROCESSORS]
    for traced in traces:
        if isinstance(traced, str):
            return "refused", traced
    assert isinstance(traced, Traced)
    if traced.alone:
        return "traced, served alone", traced.alone
    rank = traced.rank(1)
    assert not isinstance(rank, str), "its rank is there"
    kinds = ", ".join(f"{kind.count} {kind.kind}" for kind in rank.kinds)
    return "traced", kinds + (" (by step)" if traced.longest_step else "")


def main() -> None:
    """Print of each architecture whether its weights and caches can be traced, or why not."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--write", type=Path)
    parser.add_argument("names", nargs="*")
    asked = parser.parse_args()
    mx.set_default_device(mx.cpu)
    counts: Counter[str] = Counter()
    rows = []
    with contextlib.redirect_stdout(io.StringIO()):
        found = planner_models.names()
    for name in asked.names or found:
        kind, words = verdict(name)
        counts[kind] += 1
        rows.append(f"| {name} | {kind}: {' '.join(words.split())[:140]} |")
        print(rows[-1], flush=True)
    page = PAGE.format(
        mlx_lm=version("mlx-lm"),
        total=len(found),
        counts="; ".join(f"{kind}: {count}" for kind, count in sorted(counts.items())),
        rows="\n".join(rows),
    )
    if asked.write:
        asked.write.write_text(page)


if __name__ == "__main__":
    main()
