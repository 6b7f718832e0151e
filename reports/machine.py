"""A drift check for machines: one JSON object (docs/drift.schema.json)."""

from __future__ import annotations

from typing import Any

from manifest.findings import Finding
from reports.fleet import Fleet, HostReport
from reports.masking import masked
from reports.repair import repair

VERSION = 1


def to_json(fleet: Fleet) -> dict[str, Any]:
    """Give the whole check; nothing in it looks like a secret any more."""
    whole = {
        "version": VERSION,
        "inventory": fleet.inventory,
        "time": fleet.time,
        "seconds": round(fleet.seconds, 3),
        "verdict": fleet.verdict,
        "trouble": fleet.trouble,
        "hosts": [_host(host, fleet) for host in fleet.hosts],
    }
    clean: dict[str, Any] = _clean(whole)
    return clean


def _host(host: HostReport, fleet: Fleet) -> dict[str, Any]:
    judgement = host.judgement
    return {
        "name": host.name,
        "verdict": judgement.verdict,
        "troubles": list(judgement.troubles),
        "checked": judgement.checked,
        "applied": judgement.applied.to_json() if judgement.applied else None,
        "connect_seconds": round(host.connect_s, 3),
        "ask_seconds": round(host.ask_s, 3),
        "findings": [_finding(one, host, fleet) for one in judgement.findings],
        "tolerated": [
            {**_finding(one, host, fleet), "reason": why.reason, "until": why.until.isoformat()}
            for one, why in judgement.tolerated
        ],
    }


def _finding(one: Finding, host: HostReport, fleet: Fleet) -> dict[str, Any]:
    command = repair(one, inventory=fleet.inventory, host=host.name)
    return {**one.to_json(), "repair": command}


def _clean(value: Any) -> Any:  # noqa: ANN401 -- JSON is whatever it is
    if isinstance(value, dict):
        return {key: _clean(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_clean(one) for one in value]
    return masked(value) if isinstance(value, str) else value
