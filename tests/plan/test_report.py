"""A plan is read in terminals of any width."""

import pytest
from rich.console import Console

from planner.declared import Host, Model
from planner.placement import place
from planner.report import report
from tests.plan.test_plan import GIB, traced

CARD = "NVIDIA RTX PRO 6000 Blackwell Workstation Edition"
NAMES = ("llama-3.1-8b-instruct", "qwen3-30b-a3b-4bit")


class Known:
    """A lock in which every model takes as much."""

    def traced(self, *_, **__):
        return traced(16 * GIB, bits=4.5)


def lines(width):
    models = [Model(path=f"/models/{name}", name=name, context=8192) for name in NAMES]
    host = Host(name="gpu-1.example.net", gpus=(CARD, CARD), models=tuple(models))
    console = Console(width=width, highlight=False)
    with console.capture() as printed:
        console.print(report(place([host], Known())))
    return printed.get().splitlines()


@pytest.mark.parametrize("width", [60, 80, 120, 160])
def test_bars_are_whole_and_nothing_is_cut_off(width):
    """Each ends with what is kept back, and nothing is wider than the terminal."""
    seen = lines(width)
    bars = [line for line in seen if "▕" in line]

    assert 2 == len(bars)
    for bar in bars:
        assert "/▏" in bar
        assert 56 == bar.index("▏") - bar.index("▕") - 1 or width == len(bar.rstrip())
    assert "…" not in "".join(seen)
    assert max(map(len, seen)) <= width
    for name in ("llama-3-1-8b-instruct.0", "qwen3-30b-a3b-4bit.0", CARD):
        assert any(name in line for line in seen)


@pytest.mark.parametrize("width", [80, 120, 160])
def test_what_a_server_is_told_stands_in_one_line(width):
    """Beside its instance or below it."""
    told = [line for line in lines(width) if "prompts in steps of" in line]
    assert 2 == len(told)
    assert all("4 at once, 4 prompts in steps of 2048, 8 kept" in line for line in told)


def test_where_there_is_room_each_instance_has_one_line():
    """As in a file, which is 160 wide."""
    (line,) = (line for line in lines(160) if line.startswith("qwen3"))
    assert line.rstrip().endswith("8 kept")
