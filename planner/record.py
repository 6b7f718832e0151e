"""The base of the values that the planner hands out."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A frozen value that pyinfra can print and ``json`` can write."""

    def to_json(self) -> dict[str, object]:
        # pyinfra's command line prints data and facts through this hook.
        return asdict(self)
