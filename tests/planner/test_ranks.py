"""Ranks of models whose caches keep more alive than they hold."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx

from benchmarks import planner_models
from planner.hollow import program
from planner.hollow.__main__ import rank


def test_what_the_whole_models_caches_keep_is_counted_for_a_rank(tmp_path: Path) -> None:
    """MLX exports no graph of a model that was shared out, so a rank's own is not asked for."""
    planner_models.write(tmp_path, "llama")
    mx.set_default_device(mx.cpu)
    with program.cpu():
        shared = rank(tmp_path, 2, [{"viewed_bytes": 5}] * planner_models.LAYERS)
    assert isinstance(shared, dict), shared
    assert [kind["viewed_bytes"] for kind in shared["kinds"]] == [5]
