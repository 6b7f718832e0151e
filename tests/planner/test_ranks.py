"""Ranks of models whose caches keep more alive than they hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from benchmarks import planner_models
from planner.hollow import model, program, sliced
from planner.hollow.__main__ import rank


def test_what_the_whole_models_caches_keep_is_counted_for_a_rank(tmp_path: Path) -> None:
    """MLX exports no graph of a model that was shared out, so a rank's own is not asked for."""
    planner_models.write(tmp_path, "llama")
    mx.set_default_device(mx.cpu)
    with program.cpu():
        whole, _ = model.load(tmp_path)
        shared = rank(whole, 2, [{"viewed_bytes": 5}] * planner_models.LAYERS)
    assert isinstance(shared, dict), shared
    assert [kind["viewed_bytes"] for kind in shared["kinds"]] == [5]


def primitives(whole: Any) -> dict[str, tuple[str, str]]:
    """What makes each of its parameters."""
    return {name: sliced.primitives(array) for name, array in tree_flatten(whole.parameters())}


@pytest.mark.parametrize("name", ["llama", "deepseek_v3", "gpt_oss"])
def test_a_rank_is_what_a_model_that_was_loaded_for_it_is(tmp_path: Path, name: str) -> None:
    """And the whole model is as it was, for the next one."""
    planner_models.write(tmp_path, name)
    mx.set_default_device(mx.cpu)
    with program.cpu():
        whole, _ = model.load(tmp_path)
        before, made = sliced.sizes(whole), primitives(whole)
        shared = [rank(whole, size) for size in (2, 2)]
        assert (sliced.sizes(whole), primitives(whole)) == (before, made)
        loaded, _ = model.load(tmp_path)
        loaded.shard(model.StandIn(2))
        weights = sliced.kept(loaded, before)
        kinds = model.kinds(model.examples(loaded)[0])
    assert weights < sum(before.values())
    assert shared == [{"weights": weights, "kinds": kinds}] * 2
