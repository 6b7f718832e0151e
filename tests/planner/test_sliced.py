"""What a rank keeps of a sliced parameter, beside MLX's own count of what it holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import pytest
from mlx import nn

from planner.hollow import sliced

SHARES: dict[str, Callable[[mx.array], mx.array]] = {
    "not sliced": lambda whole: whole,
    "a view of some rows": lambda whole: whole[8:16],
    "a copy of some rows": lambda whole: mx.contiguous(whole[8:16]),
    "a copy of some columns": lambda whole: mx.contiguous(whole[:, 8:16]),
    "one of a split": lambda whole: mx.contiguous(mx.split(whole, 4, axis=0)[1]),
}


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("columns", [16, 2048], ids=["not worth a copy", "worth a copy"])
def test_as_much_as_mlx_holds(tmp_path: Path, share: str, columns: int) -> None:
    """A slice holds all of what it was taken from, unless it was worth a copy."""
    checkpoint = tmp_path / "model.safetensors"
    mx.save_safetensors(str(checkpoint), {"weight": mx.ones((64, columns))})
    mx.set_default_device(mx.cpu)
    mx.clear_cache()
    before = mx.get_active_memory()

    model = nn.Module()
    model.weight = mx.load(str(checkpoint))["weight"]
    whole = sliced.sizes(model)
    model.weight = SHARES[share](model.weight)
    predicted = sliced.kept(model, whole)
    mx.eval(model.parameters())
    mx.synchronize()

    really = mx.get_active_memory() - before
    assert 0 <= predicted - really <= sliced.WORTH_A_COPY
    if share != "not sliced" and columns > 16 and "copy" in share:
        assert predicted < whole["weight"] / 2
