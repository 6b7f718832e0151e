"""Differences that are known, wanted for a while, and not to be reported meanwhile.

Standard library only: a host that checks itself runs this very file.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from fnmatch import fnmatchcase

from manifest.findings import Finding
from manifest.resources import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """One such difference: what, why, and the last day (UTC) on which it is let pass."""

    resource: str  # kind:id, or a shell pattern of it
    attribute: str | None
    reason: str
    until: date

    def covers(self, finding: Finding) -> bool:
        """Tell whether this is about the finding, whatever the day. What is unknown is never."""
        return (
            finding.cause != "cannot tell"
            and (finding.address == self.resource or fnmatchcase(finding.address, self.resource))
            and self.attribute in {None, finding.attribute}
        )

    def to_json(self) -> Json:
        """Give what ``read`` reads."""
        return {
            "resource": self.resource,
            "attribute": self.attribute,
            "reason": self.reason,
            "until": self.until.isoformat(),
        }


def read(data: Json) -> Tolerance:
    """Read one of its JSON; raises ``ValueError``, ``KeyError`` or ``TypeError``."""
    return Tolerance(**{**data, "until": date.fromisoformat(data["until"])})


def sorted_out(
    findings: Iterable[Finding], tolerances: Sequence[Tolerance], *, today: date
) -> tuple[tuple[Finding, ...], tuple[tuple[Finding, Tolerance], ...]]:
    """Part what is to be reported from what is let pass; what has expired is to be reported."""
    reported: list[Finding] = []
    passed: list[tuple[Finding, Tolerance]] = []
    for finding in findings:
        about = [one for one in tolerances if one.covers(finding)]
        holding = [one for one in about if today <= one.until]
        if holding:
            passed.append((finding, holding[0]))
        elif about:
            note = f"was tolerated until {about[0].until.isoformat()}: {about[0].reason}"
            note = f"{finding.note}; {note}" if finding.note else note
            reported.append(replace(finding, note=note))
        else:
            reported.append(finding)
    return tuple(reported), tuple(passed)
