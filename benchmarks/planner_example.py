"""Draw the plan of a workstation with two RTX PRO 6000 into docs/plan.svg.

    python benchmarks/planner_published.py --lock LOCK     # once: traces the models
    python benchmarks/planner_example.py LOCK docs/plan.svg

The models are those of ``planner_published.py``: published numbers, headers made from them.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from hub import lock
from plan import show
from planner.declared import Host, Model
from planner.gpus import BY_NAME
from planner.placement import place

CARD = BY_NAME["NVIDIA RTX PRO 6000 Blackwell Workstation Edition"].gpu


def model(name: str, *, context: int, concurrency: int) -> Model:
    """A model of ``planner_published.py``."""
    return Model(
        repo=f"published/{name}",
        revision="0" * 40,
        name=name,
        context=context,
        concurrency=concurrency,
    )


def main() -> None:
    """Print the plan and draw it."""
    known = lock.read(sys.argv[1])
    host = Host(
        name="gpu-1.example.net",
        gpus=(CARD, CARD),
        shared_gpus={0: 2 * 2**30},
        models=(
            model("Qwen3-30B-A3B-4bit", context=32768, concurrency=8),
            model("Llama-3.3-70B-8bit", context=16384, concurrency=1),
            model("gpt-oss-20b-mxfp4", context=32768, concurrency=4),
            model("MiMo-V2-Flash-4bit", context=32768, concurrency=2),
        ),
    )
    picture = Path(sys.argv[2]) if len(sys.argv) > 2 else None  # noqa: PLR2004
    show(place([host], known), [host], known, explain=None, as_json=False, svg=picture)


if __name__ == "__main__":
    main()
