"""Where each report goes: the terminal, standard output, files."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from rich.console import Console

from manifest.metrics import Checked, metrics
from reports import table
from reports.fleet import Fleet
from reports.junit import junit
from reports.machine import to_json
from reports.page import page

COLUMNS = 150


def write(
    fleet: Fleet,
    *,
    as_json: bool = False,
    html_path: Path | None = None,
    junit_path: Path | None = None,
    metrics_path: Path | None = None,
    svg_path: Path | None = None,
) -> list[str]:
    """Write every report that is asked for; without ``as_json`` the table goes to stdout.

    Gives a line for each file that could not be written.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # no host has a say in what is printed
    if as_json:
        print(json.dumps(to_json(fleet), ensure_ascii=False))
    else:
        # In a log or a pipe nobody has set a width, and 80 columns would break every path.
        width = None if sys.stdout.isatty() else COLUMNS
        table.show(fleet, Console(highlight=False, width=width))
    texts: dict[Path | None, Callable[[], str]] = {
        html_path: lambda: page(fleet),
        junit_path: lambda: junit(fleet),
        # Of a check of no host there is nothing to tell; the age of what was told last alerts.
        metrics_path if fleet.hosts else None: lambda: _metrics(fleet),
        svg_path: lambda: _picture(fleet),
    }
    unwritten: list[str] = []
    for path, text in texts.items():
        try:
            if path is not None:
                _replace(path, text())
        except OSError as error:  # a full disk: the others may be on another
            unwritten.append(f"{path}: {error.strerror}")
    return unwritten


def _metrics(fleet: Fleet) -> str:
    at = datetime.fromisoformat(fleet.time).timestamp()
    return metrics(Checked(host.judgement, at, host.name) for host in fleet.hosts)


def _picture(fleet: Fleet) -> str:
    console = Console(
        record=True, width=COLUMNS, file=io.StringIO(), highlight=False, force_terminal=True
    )
    table.show(fleet, console)
    picture = console.export_svg(title=f"./drift.py {fleet.inventory}")
    # rich would have the picture load its font from somewhere.
    return re.sub(r"@font-face \{.*?\}", "", picture, flags=re.DOTALL)


def _replace(path: Path, text: str) -> None:
    """Write a file in one step: whoever scrapes it sees the old one or the new one."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(text, encoding="utf-8", errors="backslashreplace")
    new.replace(path)
