"""One host's verdict, from what its probe answered and what is declared of it.

Standard library only: a host that checks itself runs this very file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Literal

from manifest import layout
from manifest.findings import Finding, compare, expected_of
from manifest.manifest import Manifest
from manifest.stamp import Run, Stamp, StampError, StampVersionError, loads
from manifest.tolerance import Tolerance, sorted_out

Verdict = Literal["as declared", "drift", "cannot tell"]
EXIT_STATUS: dict[Verdict, int] = {"as declared": 0, "drift": 2, "cannot tell": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What is to be said of one host."""

    findings: tuple[Finding, ...] = ()
    tolerated: tuple[tuple[Finding, Tolerance], ...] = ()
    troubles: tuple[str, ...] = ()  # why nothing, or not all, could be told
    checked: int = 0  # resources that were compared
    applied: Run | None = None  # the deploy that the host's stamp tells of

    @property
    def verdict(self) -> Verdict:
        """What could not be looked at outweighs what was found: it may hide more."""
        if self.troubles or any(one.cause == "cannot tell" for one in self.findings):
            return "cannot tell"
        return "drift" if self.findings else "as declared"


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """Give the verdict of several; of none at all nothing can be told."""
    given = set(verdicts)
    if not given or "cannot tell" in given:
        return "cannot tell"
    return "drift" if "drift" in given else "as declared"


def judge(
    stamp_text: str | None,
    live: Manifest,
    *,
    declare: Callable[[Stamp], Manifest],
    deploying: str | None = None,
    problems: Iterable[str] = (),
    tolerances: Sequence[Tolerance] = (),
    today: date,
    ask: bool = False,
) -> Judgement:
    """Judge a host by its stamp's text and its live state.

    ``declare`` gives what is declared now of the host with that stamp; it raises ``ValueError``
    where that cannot be known, and what was applied is compared alone. ``deploying`` names a deploy
    that is under way. ``problems`` are what the probe could not read.
    """
    try:
        stamp = loads(stamp_text or "")
    except StampVersionError as error:
        return Judgement(troubles=(str(error),))
    except StampError as error:
        return Judgement(findings=(_no_stamp(stamp_text, error),), checked=1)
    troubles = list(problems)
    try:
        declared = declare(stamp)
    except ValueError as error:
        troubles.append(str(error))
        declared = stamp.everything()
    compared = (one for one in compare(declared, stamp, live, ask=ask) if not _forgiven(one))
    found = (*_unfinished(stamp, deploying), *compared)
    findings, tolerated = sorted_out(found, tolerances, today=today)
    return Judgement(
        findings=findings,
        tolerated=tolerated,
        troubles=tuple(troubles),
        checked=len(expected_of(declared)),
        applied=stamp.run,
    )


def _forgiven(finding: Finding) -> bool:
    """Tell whether it is only that the host has not heard yet of what is to be tolerated.

    Whoever adds an exception wants silence of the hosts that it is about, not drift on all of them.
    """
    return finding.id == layout.TOLERATED and finding.cause == "not rolled out"


def _no_stamp(text: str | None, error: StampError) -> Finding:
    gone = Finding(cause="missing", kind="file", id=layout.STAMP, note="never deployed to, or lost")
    finding = gone if text is None else replace(gone, cause="changed by hand", note=str(error))
    return replace(finding, note=f"{finding.note}; nothing else can be told before a deploy")


def _unfinished(stamp: Stamp, deploying: str | None) -> Iterator[Finding]:
    run = f"{stamp.run.operator}, begun {stamp.run.time}"
    if deploying is not None:
        note = f"under way: {deploying.strip()}"
    elif not stamp.finished:
        note = f"the run of {run}, did not come to its end"
    else:
        return
    yield Finding(cause="run not finished", kind="file", id=layout.STAMP, note=note)
