"""A drift check as metrics, in Prometheus's text format.

Standard library only: a host that checks itself runs this very file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from manifest.findings import CAUSES
from manifest.judgement import EXIT_STATUS, Judgement

_HELP = {
    "mlx_drift_status": "Verdict of the last check: 0 as declared, 2 drift, 1 could not tell.",
    "mlx_drift_findings": "What the last check found, by class.",
    "mlx_drift_tolerated": "What it found and was told to let pass.",
    "mlx_drift_resources": "How many resources it compared.",
    "mlx_drift_checked_timestamp_seconds": "When it was.",
}


class Checked(NamedTuple):
    """One host's judgement, and when it was made (seconds since 1970)."""

    judgement: Judgement
    at: float
    host: str | None = None  # None: the host itself says so, and whoever scrapes it knows which


def metrics(checks: Iterable[Checked]) -> str:
    """Give the text; ends with a newline."""
    samples: dict[str, list[str]] = {name: [] for name in _HELP}
    for check in checks:
        one, host = check.judgement, {"host": check.host} if check.host is not None else {}
        causes = Counter(finding.cause for finding in one.findings)

        def sample(name: str, value: float, **labels: str) -> None:
            samples[name].append(f"{name}{_labels({**host, **labels})} {value:.15g}")  # noqa: B023

        sample("mlx_drift_status", EXIT_STATUS[one.verdict])
        for cause in CAUSES:
            sample("mlx_drift_findings", causes[cause], **{"class": cause})
        sample("mlx_drift_tolerated", len(one.tolerated))
        sample("mlx_drift_resources", one.checked)
        sample("mlx_drift_checked_timestamp_seconds", check.at)
    lines = [
        line
        for name, values in samples.items()
        for line in (f"# HELP {name} {_HELP[name]}", f"# TYPE {name} gauge", *values)
    ]
    return "\n".join(lines) + "\n"


def _labels(labels: dict[str, str]) -> str:
    pairs = [f'{name}="{_escaped(value)}"' for name, value in labels.items()]
    return "{" + ",".join(pairs) + "}" if pairs else ""


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
