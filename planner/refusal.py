"""Why a host cannot be what it is declared to be."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """One thing that is wrong: what is needed, what was found, what to do about it."""

    needed: str
    found: str
    way_out: str

    def __str__(self) -> str:
        """One line, for a person who has a hundred hosts."""
        return f"needs {self.needed}; found {self.found}; {self.way_out}"
