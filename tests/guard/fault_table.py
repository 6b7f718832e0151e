"""The table of faults in docs/evidence/guard-faults.md, a row a fault, written by the soak."""

from __future__ import annotations

import json
import os
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PLACE = Path(__file__).parents[2] / "docs/evidence/guard-faults.md"
HEAD = """\
# What each fault costs

Written by `pytest --soak tests/guard/test_faults.py`, which hurts one instance (the guard, the real
engine, SmolLM2-135M in float32: 538 MB) on a lab host that many times and fails where a unit is lost,
says `active` and cannot generate, or tells a client what it cannot read. Seconds, median / worst:
until the client in flight knew, and until a new request got its first token. All on a CPU.

| fault | times | the client knew | new token | what the client in flight was told | load of the machine |
|---|---|---|---|---|---|
"""  # noqa: E501
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


def write(order: Sequence[str], fault: str, runs: Sequence[dict[str, Any]]) -> None:
    """Put this fault's row in the place of its old one."""
    old = PLACE.read_text().splitlines() if PLACE.exists() else []
    rows = {line.split("|")[1].strip(): line for line in old if line.startswith("| ")}
    rows[fault] = row(fault, runs)
    PLACE.write_text(HEAD + "".join(f"{rows[name]}\n" for name in order if name in rows))
