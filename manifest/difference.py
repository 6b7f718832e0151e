"""How what is expected differs from what is there: the one comparison that everything uses."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from manifest.resources import Resource


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One attribute of one resource that is not as expected."""

    kind: str
    id: str
    what: Literal["missing", "differs", "unexpected"]
    attribute: str | None = None  # None: the resource as a whole
    expected: Any = None
    found: Any = None

    @property
    def address(self) -> str:
        """The resource's kind and id."""
        return f"{self.kind}:{self.id}"

    def __str__(self) -> str:
        if self.what == "missing":
            return f"{self.kind} {self.id}: missing"
        if self.what == "unexpected":
            return f"{self.kind} {self.id}: not declared"
        return (
            f"{self.kind} {self.id}: {self.attribute}: "
            f"expected {_shown(self.expected)}, found {_shown(self.found)}"
        )


def diff(expected: Iterable[Resource], actual: Iterable[Resource]) -> tuple[Difference, ...]:
    """List every difference, in the order of what is expected, then what is there besides."""
    found = {resource.address: resource for resource in actual}
    differences: list[Difference] = []
    for want in expected:
        have = found.pop(want.address, None)
        if have is None:
            differences.append(Difference(kind=want.kind, id=want.id, what="missing"))
            continue
        have_attributes = have.attributes()
        differences += [
            Difference(
                kind=want.kind,
                id=want.id,
                what="differs",
                attribute=name,
                expected=value,
                found=have_attributes.get(name),
            )
            for name, value in want.attributes().items()
            if have_attributes.get(name) != value
        ]
    differences += [
        Difference(kind=other.kind, id=other.id, what="unexpected") for other in found.values()
    ]
    return tuple(differences)


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(map(str, value)) + "]"
    return "nothing" if value is None else f"`{value}`"
