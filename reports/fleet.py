"""What a drift check found: of each host, and of all together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from manifest.judgement import EXIT_STATUS, Judgement, Verdict, worst


@dataclass(frozen=True, slots=True, kw_only=True)
class HostReport:
    """One host: what is to be said of it, and how long that took."""

    name: str
    judgement: Judgement
    connect_s: float = 0
    ask_s: float = 0
    # Texts of files that differ, by path: as declared, as found. Only what anyone may read there.
    texts: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """From the first packet to the last."""
        return self.connect_s + self.ask_s


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
        return worst(host.judgement.verdict for host in self.hosts)

    @property
    def exit_status(self) -> int:
        """0 as declared, 2 drift, 1 could not tell."""
        return EXIT_STATUS[self.verdict]
