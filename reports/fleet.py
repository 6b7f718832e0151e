"""What a drift check found: of each host, and of all together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from manifest.findings import Finding
from manifest.stamp import Run
from manifest.tolerance import Tolerance

Verdict = Literal["as declared", "drift", "cannot tell"]
AS_DECLARED, COULD_NOT_TELL, DRIFT = 0, 1, 2  # exit statuses


@dataclass(frozen=True, slots=True, kw_only=True)
class HostReport:
    """One host's verdict and what it rests on."""

    name: str
    findings: tuple[Finding, ...] = ()
    tolerated: tuple[tuple[Finding, Tolerance], ...] = ()
    trouble: str = ""  # why nothing, or not all, could be told
    checked: int = 0  # resources that were compared
    applied: Run | None = None  # the deploy that the host's stamp tells of
    connect_s: float = 0
    ask_s: float = 0
    # Texts of files that differ, by path: as declared, as found. Only what anyone may read there.
    texts: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def verdict(self) -> Verdict:
        """What could not be looked at outweighs what was found: it may hide more."""
        if self.trouble or any(one.cause == "cannot tell" for one in self.findings):
            return "cannot tell"
        return "drift" if self.findings else "as declared"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """All hosts that were asked for, in the inventory's order."""

    inventory: str
    hosts: tuple[HostReport, ...] = ()
    trouble: str = ""  # why there was no check at all
    time: str = ""  # UTC, ISO 8601
    seconds: float = 0

    @property
    def verdict(self) -> Verdict:
        """The worst of all; a check of no hosts tells nothing."""
        verdicts = {host.verdict for host in self.hosts}
        if self.trouble or not verdicts or "cannot tell" in verdicts:
            return "cannot tell"
        return "drift" if "drift" in verdicts else "as declared"

    @property
    def exit_status(self) -> int:
        """0 as declared, 2 drift, 1 could not tell."""
        statuses = {"as declared": AS_DECLARED, "drift": DRIFT, "cannot tell": COULD_NOT_TELL}
        return statuses[self.verdict]
