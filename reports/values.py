"""What was expected and what was found, as people read it."""

from __future__ import annotations

import re

from manifest.findings import Finding, shown
from reports.masking import masked

LONGEST = 200  # characters of a value
_DIGEST = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{28,}\b")


def told(finding: Finding) -> tuple[str, str, str]:
    """Give what was expected, what was found and the note: of a set only what differs."""
    if finding.attribute is None:
        return "", "", _short(finding.note)
    expected, found, note = finding.expected, finding.found, finding.note
    if isinstance(expected, tuple):
        had = tuple(found or ())
        expected, found = (
            tuple(one for one in expected if one not in had),
            tuple(one for one in had if one not in expected),
        )
        return _members(expected), _members(found), ""
    return _value(expected), _value(found), _short(note)


def _members(values: tuple[object, ...]) -> str:
    return _short(", ".join(map(str, values)))


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return _short(shown(value).strip("`"))


def _short(text: str) -> str:
    text = _DIGEST.sub(r"\1…", masked(text))
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
