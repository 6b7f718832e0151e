"""The documentation of inventories names every key that there is, and no other."""

import re
from pathlib import Path

import pytest

from planner.declared import KEYS, Model

PAGE = (Path(__file__).parents[1] / "docs/inventory.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("heading", "keys"), [("A host", set(KEYS)), ("A model", set(Model.model_fields))]
)
def test_every_key_has_its_row(heading: str, keys: set[str]) -> None:
    """Each key of the typed data stands in the first column of its table."""
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    first_cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    assert {name for cell in first_cells for name in re.findall(r"`(\w+)`", cell)} == keys
