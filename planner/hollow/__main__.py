"""Trace one hollow checkpoint: ``python -P -m planner.hollow DIRECTORY SIZES``; JSON on stdout.

Exit status 0: traced, or refused with ``{"refused": reason}``; anything else is a crash.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx

from planner.hollow import model as hollow


def trace(directory: Path, sizes: list[int]) -> dict[str, Any]:
    """Everything that the lock keeps of the model in ``directory``."""
    model, config = hollow.load(directory)
    text = config.get("text_config") or config
    return {
        "mlx_lm": version("mlx-lm"),
        "mlx": version("mlx"),
        "model_type": config["model_type"],
        "layers": len(model.layers),
        "batchable": hollow.batchable(model),
        "context_max": text.get("max_position_embeddings"),
        "head_dims": [],
        "dtype": "",
        "loading": 0,
        "ranks": {str(size): rank(directory, size) for size in sizes},
    }


def rank(directory: Path, size: int) -> dict[str, Any] | str:
    """One of ``size`` ranks, or the sentence that says why there is none."""
    if size == 1:
        model, _ = hollow.load(directory)
        return takes(model)
    # A rank loads as the server's ranks do (mlx_lm/utils.py, `sharded_load`).
    model, _ = hollow.load(directory, strict=False)
    if not hasattr(model, "shard"):
        return "its architecture has no `shard` in this mlx-lm"
    try:
        model.shard(hollow.StandIn(size))
        return takes(model)
    except Exception as error:  # noqa: BLE001 -- whatever it raises, the real rank would raise
        return str(error)


def takes(model: Any) -> dict[str, Any]:  # noqa: ANN401
    """Weights, caches and forward passes of a loaded model."""
    program = {"operations": 0, "reads": [0] * 8, "live": {"0": [[0, 0, 0, 0, 1, 0, 0, 0]]}}
    return {
        "weights": hollow.weights(model),
        "kinds": hollow.kinds(model),
        "prefill": program,
        "fused": program,
        "decode": program,
    }


def main(arguments: list[str]) -> int:
    directory, sizes = arguments
    mx.set_default_device(mx.cpu)
    # A rank's sum over the group has the shape of its part.
    mx.distributed.all_sum = lambda x, **_: x
    try:
        print(json.dumps(trace(Path(directory), [int(size) for size in sizes.split(",")])))
    except Exception as error:  # noqa: BLE001 -- whatever mlx-lm raises is the reason
        print(json.dumps({"refused": f"{type(error).__name__}: {error}"}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
