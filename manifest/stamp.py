"""The stamp: what was intended and what was applied on a host, kept on the host."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from manifest.manifest import Manifest, read

VERSION = 1


class StampError(ValueError):
    """A stamp that cannot be read; the message says why."""


class StampVersionError(StampError):
    """A stamp of another version of this program, which may well be right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One deploy: who, when (UTC, ISO 8601) and from which commit of the checkout."""

    operator: str
    time: str
    commit: str

    def to_json(self) -> dict[str, str]:
        """Give the JSON object in the stamp."""
        return {"operator": self.operator, "time": self.time, "commit": self.commit}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """``intended`` is there only while a run is under way, or after it died."""

    run: Run
    applied: Manifest | None = None
    intended: Manifest | None = None
    # What preflight settled, as plain JSON (planner.bound): with it, what is declared can be
    # computed without looking at the host again.
    bound: Mapping[str, Any] | None = None

    @property
    def finished(self) -> bool:
        """Whether the last run came to its end."""
        return self.intended is None

    def everything(self) -> Manifest:
        """All that a run may have put on the host: applied, and intended by one that died."""
        both: dict[str, Any] = {}
        for manifest in (self.applied, self.intended):
            both |= manifest.by_address() if manifest else {}
        return Manifest(tuple(both.values()))

    def intend(self, run: Run, manifest: Manifest, bound: Mapping[str, Any]) -> Stamp:
        """Say what the run is about to do; what only a run that died intended is not forgotten."""
        return replace(self, run=run, applied=self._kept(manifest), intended=manifest, bound=bound)

    def _kept(self, manifest: Manifest) -> Manifest | None:
        """Give what was applied, and what a run that died may have made and nobody declares now.

        No more than that: of what is declared again, only what was applied tells a hand's change
        from a run's.
        """
        applied = self.applied or Manifest()
        known = applied.by_address().keys() | manifest.by_address().keys()
        left = [one for one in self.everything() if one.address not in known]
        return applied + left if left else self.applied

    def dumps(self) -> str:
        """Give the text of the file; ends with a newline."""
        data = {
            "version": VERSION,
            "run": self.run.to_json(),
            "applied": _json(self.applied),
            "intended": _json(self.intended),
            "bound": self.bound,
        }
        return json.dumps(data, indent=1, sort_keys=True) + "\n"


def loads(text: str) -> Stamp:
    """Read the file's text; raises ``StampError``."""
    try:
        data = json.loads(text)
        version = data["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise StampError(f"stamp: not readable: {error!r}") from None
    if version != VERSION:
        raise StampVersionError(f"stamp: version {version}, this program reads {VERSION}")
    try:
        return Stamp(
            run=Run(**data["run"]),
            applied=read(data["applied"]) if data["applied"] is not None else None,
            intended=read(data["intended"]) if data["intended"] is not None else None,
            bound=data.get("bound"),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StampError(f"stamp: not readable: {error!r}") from None


def _json(manifest: Manifest | None) -> list[dict[str, Any]] | None:
    return manifest.to_json() if manifest is not None else None  # an empty one is one
