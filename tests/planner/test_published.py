"""Peaks on real GPUs that others published, none of which sets a constant of the planner's."""

import pytest

from benchmarks import planner_published
from hub import tracing
from planner.traced import Traced

NAME = "Qwen3-30B-A3B"


@pytest.fixture(scope="module")
def experts() -> Traced:
    """The model of which MLX's authors tell the most, from its published numbers."""
    said = tracing.trace(*planner_published.checkpoint(NAME), "older gpu", sizes=[1])
    assert isinstance(said, Traced), said
    return said


@pytest.mark.parametrize(
    "seen", [seen for seen in planner_published.MEASURED if seen[0] == NAME], ids=str
)
def test_what_a_gpu_was_seen_to_take_is_foreseen(
    experts: Traced, seen: tuple[str, int, bool, str, tuple[int, int], float]
) -> None:
    """With each of three limits of command buffers, on an H100 and a B200.

    A GPU that is slow beside Python has MLX as far ahead of it as MLX may be.
    """
    _, tokens, fused, _, limits, measured = seen
    ours = sum(planner_published.foreseen(experts, tokens, limits, fused=fused))
    assert measured * 0.997 < ours < measured * 1.25
