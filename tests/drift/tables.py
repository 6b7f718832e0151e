"""The tables of docs/drift.md, made from the catalogues: ``python -m tests.drift.tables``."""

from __future__ import annotations

import re
from pathlib import Path

from manifest.findings import CAUSES
from manifest.resources import (
    Directory,
    File,
    Instance,
    Package,
    Resource,
    Runtime,
    Sockets,
    Unit,
    UnitSet,
    User,
    Weights,
)
from tests.breaks import breaks
from tests.drift.by_hand import CATALOGUE
from tests.drift.harmless import HARMLESS

PAGE = Path(__file__).parents[2] / "docs/drift.md"
ONE_OF_EACH: list[Resource] = [
    User(name="mlx", home="/h", shell="/s", groups=()),
    Package(name="p"),
    Directory(path="/d", entries=()),
    File(path="/f", sha256="0"),
    Runtime(path="/r", record="/r.json"),
    Weights(path="/w", record="/w.json"),
    Unit(
        name="a@b.service",
        fragment="/etc/systemd/system/a@.service",
        enabled="enabled",
        active="active",
    ),
    UnitSet(pattern="a@*"),
    Instance(name="b"),
    Sockets(user="mlx"),
]


def tables() -> dict[str, str]:
    """Give each table under the name that marks its place in the page."""
    return {
        "classes": _table(["class", "meaning"], [[name, words] for name, words in CAUSES.items()]),
        "generated": _table(
            ["resource", "change", "class"],
            [[one.kind, one.change, one.finding] for one in breaks(ONE_OF_EACH)],
        ),
        "by hand": _table(
            ["change", "class", "named", "repaired by"],
            [[one.id, one.finding, f"`{one.at}`", one.repair] for one in CATALOGUE],
        ),
        "harmless": "\n".join(f"- {what}" for what in HARMLESS) + "\n",
    }


def filled(text: str) -> str:
    """Give the page with every table as it is to be."""
    for name, table in tables().items():
        place = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
        text, count = re.subn(
            place, lambda at, t=table: f"{at[1]}{t}{at[2]}", text, flags=re.DOTALL
        )
        assert count == 1, name
    return text


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
