"""A drift check to look at: one self-contained HTML page."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from manifest.findings import CAUSES, Finding
from reports.fleet import Fleet, HostReport
from reports.masking import masked
from reports.repair import repair
from reports.values import told

_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    undefined=StrictUndefined,
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
)


def page(fleet: Fleet) -> str:
    """Give the page; it loads nothing from anywhere."""
    template = _ENVIRONMENT.get_template("page.html.j2")
    return template.render(
        inventory=fleet.inventory,
        time=fleet.time.replace("T", " ").replace("+00:00", " UTC"),
        seconds=fleet.seconds,
        verdict=fleet.verdict,
        trouble=masked(fleet.trouble),
        causes=CAUSES,
        hosts=[_host(host, fleet) for host in fleet.hosts],
    )


def _host(host: HostReport, fleet: Fleet) -> dict[str, Any]:
    one = host.judgement
    return {
        "name": host.name,
        "verdict": one.verdict,
        "troubles": [masked(trouble) for trouble in one.troubles],
        "checked": one.checked,
        "applied": one.applied,
        "seconds": host.seconds,
        "findings": [_finding(finding, host, fleet) for finding in one.findings],
        "tolerated": [
            {**_finding(finding, host, fleet), "reason": why.reason, "until": why.until}
            for finding, why in one.tolerated
        ],
    }


def _finding(one: Finding, host: HostReport, fleet: Fleet) -> dict[str, Any]:
    expected, found, note = told(one)
    return {
        "class": one.cause,
        "kind": one.kind,
        "resource": masked(one.id),
        "attribute": one.attribute or "",
        "expected": expected,
        "found": found,
        "note": note,
        "repair": repair(one, inventory=fleet.inventory, host=host.name),
        "lines": _lines(one, host),
    }


def _lines(one: Finding, host: HostReport) -> list[tuple[str, str]]:
    """Give a file's difference, line by line: what it is (``add``, ``del``, …) and its text."""
    if one.kind != "file" or one.attribute != "sha256" or one.id not in host.texts:
        return []
    declared, found = (masked(text).splitlines() for text in host.texts[one.id])
    kinds = {"+": "add", "-": "del", "@": "at"}
    lines = difflib.unified_diff(declared, found, "declared", "found", lineterm="", n=2)
    return [(kinds.get(line[:1], ""), line) for line in lines if line[:3] not in {"---", "+++"}]
