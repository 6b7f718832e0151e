"""Drift: what of a host is not as declared, and how it came to that.

Three manifests are held against each other: what is declared now, what the last run applied (its
stamp), and what is there. Standard library only: a host that checks itself runs this very file, and
declares to itself what was applied.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from manifest.manifest import Manifest
from manifest.resources import File, Instance, Json, Reboot, Resource, Unit
from manifest.stamp import Stamp

Cause = Literal[
    "changed by hand",
    "not rolled out",
    "run not finished",
    "missing",
    "unmanaged",
    "out of date",
    "cannot tell",
]
CAUSES: Final[Mapping[Cause, str]] = {
    "changed by hand": "as declared and applied once, and changed since, by somebody or something",
    "not rolled out": "declared otherwise than the last run applied it: deploy",
    "run not finished": "a run was to change it and did not come to its end",
    "missing": "applied, and no longer there",
    "unmanaged": "there, and declared by nobody",
    "out of date": "as declared, but what runs, or will soon be needed, is something older",
    "cannot tell": "could not be looked at",
}

# What no run can bring about, and drift looks at all the same.
WATCHED: Final[tuple[Resource, ...]] = (Reboot(pending=False),)

_OUT_OF_DATE = frozenset({
    ("instance", "inputs"),
    ("instance", "gpus"),
    ("instance", "planned_bytes"),
    ("instance", "deleted"),
    ("unit", "stale"),
    ("driver", "module"),
    ("driver", "library"),
    ("reboot", "pending"),
})  # fmt: skip
# Attributes that are sets: one too many is nobody's, one too few is missing.
_SETS = frozenset({
    ("directory", "entries"),
    ("shelf", "surplus"),
    ("unit", "drop_ins"),
    ("unit-set", "names"),
    ("sockets", "ports"),
    ("gpu-set", "uuids"),
})  # fmt: skip
UNREAD = "unread: "  # begins the name of a file that was too large to be read again


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One attribute of one resource, or the resource as a whole, that is not as declared."""

    cause: Cause
    kind: str
    id: str
    attribute: str | None = None  # None: the resource as a whole
    expected: Any = None
    found: Any = None
    note: str = ""  # what else there is to say, in a clause

    @property
    def address(self) -> str:
        """The resource's kind and id."""
        return f"{self.kind}:{self.id}"

    def to_json(self) -> Json:
        """Give the JSON object of docs/drift.schema.json, but for the host and the repair."""
        return {
            "class": self.cause,
            "kind": self.kind,
            "resource": self.id,
            "attribute": self.attribute,
            "expected": _plain(self.expected),
            "found": _plain(self.found),
            "note": self.note,
        }

    def __str__(self) -> str:
        what = f"{self.kind} {self.id}"
        if self.attribute is not None:
            what += (
                f": {self.attribute}: expected {shown(self.expected)}, found {shown(self.found)}"
            )
        return f"{self.cause}: {what}" + (f" ({self.note})" if self.note else "")


def expected_of(declared: Iterable[Resource], *, ask: bool = False) -> Manifest:
    """Give what drift expects where this is declared: more than a run can bring about."""
    return Manifest((*(_sharpened(one, ask=ask) for one in declared), *WATCHED))


def compare(
    declared: Iterable[Resource], stamp: Stamp, live: Manifest, *, ask: bool = False
) -> tuple[Finding, ...]:
    """List everything about ``live`` that is not as ``declared``, in the order declared."""
    return tuple(_Comparison(expected_of(declared, ask=ask), stamp, live).findings())


def shown(value: object) -> str:
    """Write a value as people read it."""
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(str, value)) + "]"
    return "nothing" if value in {None, ""} else f"`{value}`"


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _sharpened(one: Resource, *, ask: bool) -> Resource:
    if isinstance(one, Instance) and ask and one.name == one.leader:
        return replace(one, answers=True)
    return one


class _Comparison:
    def __init__(self, expected: Manifest, stamp: Stamp, live: Manifest) -> None:
        self.expected = expected.by_address()
        self.applied = stamp.applied.by_address() if stamp.applied else {}
        self.intended = stamp.intended.by_address() if stamp.intended else {}
        self.live = live.by_address()
        self.unfinished = not stamp.finished
        self.quiet = self._resting()

    def findings(self) -> Iterator[Finding]:
        for want in self.expected.values():
            if want.address in self.quiet:
                continue
            have = self.live.get(want.address)
            if have is None:
                yield self._absent(want)
            elif (instead := getattr(have, "instead", "")) and hasattr(want, "instead"):
                yield self._finding(want, "changed by hand", "instead", "", instead)
            else:
                yield from self._attributes(want, have)
        yield from self._outlived()

    def _resting(self) -> set[str]:
        """Name the instances whose units are not up: the unit's finding is the whole story."""
        down = set()
        for want in self.expected.values():
            if isinstance(want, Unit):
                unit = self.live.get(want.address)
                if not isinstance(unit, Unit) or unit.active != "active":
                    name = want.name.partition("@")[2].removesuffix(".service")
                    down.add(f"{Instance.kind}:{name}")
        return down

    def _absent(self, want: Resource) -> Finding:
        if want.address in self.applied:
            return self._finding(want, "missing")
        return self._finding(want, self._pending(want))

    def _pending(self, want: Resource, attribute: str | None = None) -> Cause:
        """Tell what was never applied because no run has begun it from what one did not finish."""
        planned = self.intended.get(want.address)
        if planned is None:
            return "not rolled out"
        if attribute is None:
            return "run not finished"
        same = getattr(planned, attribute) == getattr(want, attribute)
        return "run not finished" if same else "not rolled out"

    def _attributes(self, want: Resource, have: Resource) -> Iterator[Finding]:
        was = self.applied.get(want.address)
        for name, value in want.attributes().items():
            found = getattr(have, name)
            if found == value:
                continue
            if name == "active" and found == "starting":
                continue  # on its way up, as after a boot; one that fails is not `starting`
            if (want.kind, name) in _SETS:
                yield from self._set(want, name, value, found or ())
                continue
            cause = self._cause(want, was, name, found)
            if name == "changed" and all(one.startswith(UNREAD) for one in found):
                cause = "cannot tell"
            yield self._finding(
                want, cause, name, value, found, self._note(was, name, value, found)
            )

    def _cause(self, want: Resource, was: Resource | None, name: str, found: object) -> Cause:
        if was is None and want.address not in _WATCHED:
            return self._pending(want, name)
        if was is not None and getattr(was, name) == found:
            return self._pending(want, name)
        if (want.kind, name) in _OUT_OF_DATE:
            return "out of date"
        planned = self.intended.get(want.address)
        if planned is not None and was is not None and getattr(planned, name) != getattr(was, name):
            return "run not finished"
        return "changed by hand"

    def _set(
        self, want: Resource, name: str, value: tuple[Any, ...], found: tuple[Any, ...]
    ) -> Iterator[Finding]:
        was = self.applied.get(want.address)
        before = set(getattr(was, name) or ()) if was else set()
        extra, lacking = set(found) - set(value), set(value) - set(found)
        if strangers := extra - before:
            yield self._finding(want, "unmanaged", name, value, found, _named(strangers))
        if left := extra & before:
            pending = self._pending(want, name)
            yield self._finding(want, pending, name, value, found, _named(left))
        if name == "entries" or want.kind == "unit-set":
            return  # what lacks there is a resource of its own, and said of that
        if gone := lacking & before:
            yield self._finding(want, "missing", name, value, found, _named(gone))
        if new := lacking - before:
            pending = self._pending(want, name)
            yield self._finding(want, pending, name, value, found, _named(new))

    def _outlived(self) -> Iterator[Finding]:
        """Find what earlier runs made, nobody declares any more, and the next run will remove."""
        for one in self.applied.values():
            if one.address in self.expected or one.address not in self.live:
                continue
            if isinstance(one, File | Unit):
                yield Finding(
                    cause=self._pending(one) if self.unfinished else "not rolled out",
                    kind=one.kind,
                    id=one.id,
                    note="no longer declared",
                )

    def _finding(
        self,
        want: Resource,
        cause: Cause,
        attribute: str | None = None,
        expected: object = None,
        found: object = None,
        note: str = "",
    ) -> Finding:
        return Finding(
            cause=cause,
            kind=want.kind,
            id=want.id,
            attribute=attribute,
            expected=expected,
            found=found,
            note=note,
        )

    @staticmethod
    def _note(was: Resource | None, name: str, value: object, found: object) -> str:
        applied = getattr(was, name) if was is not None else value
        return "" if applied in (value, found) else f"last applied: {shown(applied)}"


_WATCHED = frozenset(one.address for one in WATCHED)


def _named(items: Iterable[object]) -> str:
    return ", ".join(sorted(map(str, items)))
