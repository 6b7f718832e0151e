"""The table of verdicts in ``docs/preflight.md``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from planner import verdict
from tests.preflight.cases import DECLARED, PROFILES, SYSTEMS, Case

PAGE = Path(__file__).parents[2] / "docs" / "preflight.md"
BEGIN = "<!-- verdicts: written by tests/preflight/test_verdicts.py -->\n"
END = "<!-- end of verdicts -->\n"
HEADINGS = {"Systems": SYSTEMS, "Drivers and GPUs (simulated)": PROFILES, "Declarations": DECLARED}


def verdicts() -> str:
    """Write all cases with their verdicts, as Markdown."""
    return "\n".join(f"### {title}\n\n{_table(cases)}" for title, cases in HEADINGS.items())


def _table(cases: Sequence[Case]) -> str:
    rows = [f"| {case.title} | {_verdict(case)} |\n" for case in cases]
    return "".join(["| host | verdict |\n", "|---|---|\n", *rows])


def _verdict(case: Case) -> str:
    found = case.found()
    refusals = verdict.judge(found, case.host, room=case.room)
    if refusals:
        return "**refused**: " + "<br>".join(f"{refusal}" for refusal in refusals)
    bound = verdict.bind(found, case.host)
    driver = f", driver {bound.driver}" if bound.driver else ""
    gpus = f", {len(bound.gpus)} GPU{'s' * (len(bound.gpus) != 1)}" if bound.gpus else ""
    return f"goes on with `{bound.flavour}`, Python {bound.python_version}{driver}{gpus}"
