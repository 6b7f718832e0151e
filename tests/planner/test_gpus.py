"""Cards as data: each one MLX can run on, found by what people call them."""

import re
from pathlib import Path

import pytest

from planner.gpus import BY_NAME, CARDS, find, near


def test_every_card_is_of_a_capability_that_the_wheel_has_kernels_for():
    """7.5, 8.x, 9.0, 10.0, 12.0, 12.1, and no name twice."""
    supported = {"7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0", "12.1"}
    assert {card.compute_capability for card in CARDS} <= supported
    assert len(BY_NAME) == len(CARDS)


def test_every_figure_is_one_that_was_seen():
    """The page that says where has each card with its figure, and no others."""
    page = Path("docs/evidence/gpus.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([^|]+) \| (\d+) \| \S.*\|$", page, flags=re.MULTILINE)
    assert sorted(rows) == sorted((card.name, str(card.mib)) for card in CARDS)


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("RTX PRO 6000", "NVIDIA RTX PRO 6000 Blackwell Workstation Edition"),
        ("h200", "NVIDIA H200"),
        ("NVIDIA L4", "NVIDIA L4"),
        ("RTX 4090", "NVIDIA GeForce RTX 4090"),
        ("T4", "Tesla T4"),
        ("nvidia a100-sxm4-40gb", "NVIDIA A100-SXM4-40GB"),
        ("nvidia geforce rtx 3080", "NVIDIA GeForce RTX 3080"),
        ("A100 40GB", "NVIDIA A100-SXM4-40GB"),
        ("RTX PRO 6000 Max-Q", "NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition"),
        ("RTX 4500", "NVIDIA RTX 4500 Ada Generation"),
    ],
)
def test_a_card_is_found_by_what_people_call_it(words, name):
    """Whole words; editions that differ in their coolers are one."""
    assert (BY_NAME[name],) == find(words)


def test_what_means_several_cards_names_them_all():
    """Of the plain one and the Ti, somebody has to say which."""
    assert 2 == len(find("RTX 3080"))
    assert {40960, 81920} == {card.mib for card in find("A100")}
    assert () == find("RTX 9999") == find("")


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("RTX 4090", "NVIDIA GeForce RTX 4090"),
        ("rtx4090", "NVIDIA GeForce RTX 4090"),
        ("NVIDIA A100", "NVIDIA A100-SXM4-40GB"),
        ("H20O", "NVIDIA H20"),
    ],
)
def test_what_is_no_cards_name_is_told_with_what_it_may_mean(words, name):
    """The likeliest first."""
    assert name == near(words)[0]
    assert 5 == len(near("RTX"))
