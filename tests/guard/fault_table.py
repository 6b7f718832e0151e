"""Tables of faults in docs/evidence, a row a fault, written by the soak."""

from __future__ import annotations

import json
import os
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EVIDENCE = Path(__file__).parents[2] / "docs/evidence"
COLUMNS = """\
| fault | times | known | new token | what the client in flight was told | load of the machine |
|---|---|---|---|---|---|
"""
NOBODY = "no client is in flight"


def row(fault: str, runs: Sequence[dict[str, Any]]) -> str:
    told = "; ".join(sorted({_words(run) for run in runs})).replace("|", "\\|")
    load = f"{os.getloadavg()[0]:.0f} on {os.cpu_count()} cores"
    known = _times([run["detected_s"] for run in runs if "detected_s" in run])
    token = _times([run["token_s"] for run in runs])
    return f"| {fault} | {len(runs)} | {known} | {token} | {told} | {load} |"


def _words(run: dict[str, Any]) -> str:
    told = run.get("client", NOBODY)
    if told.startswith("data: "):
        told = json.loads(told.removeprefix("data: ")).get("error", {}).get("message", told)
    return re.sub(r"[0-9.]+ s\b", "… s", told)


def _times(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds):.1f} / {max(seconds):.1f}" if seconds else "—"


@dataclass(frozen=True, slots=True)
class Table:
    """``order`` is that of the rows, ``head`` the text above them."""

    name: str
    order: tuple[str, ...]
    head: str

    def write(self, fault: str, runs: Sequence[dict[str, Any]]) -> None:
        """Put this fault's row in the place of its old one."""
        place = EVIDENCE / self.name
        old = place.read_text().splitlines() if place.exists() else []
        rows = {line.split("|")[1].strip(): line for line in old if line.startswith("| ")}
        rows[fault] = row(fault, runs)
        body = "".join(f"{rows[name]}\n" for name in self.order if name in rows)
        place.write_text(f"{self.head}\n{COLUMNS}{body}")
