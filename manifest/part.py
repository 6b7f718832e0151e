"""One part of a host's declaration: resources, and the text of the files among them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeVar

from manifest.resources import File, Resource

R = TypeVar("R", bound=Resource)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What one task converges; ``contents`` holds each declared file's text by path."""

    resources: tuple[Resource, ...] = ()
    contents: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def __add__(self, other: Part) -> Part:
        return Part(
            resources=(*self.resources, *other.resources),
            contents=MappingProxyType({**self.contents, **other.contents}),
        )

    def of(self, kind: type[R]) -> tuple[R, ...]:
        """Give the resources of a kind, in order."""
        return tuple(one for one in self.resources if isinstance(one, kind))


def file(path: str, text: str, *, mode: str = "0644") -> Part:
    """Declare a file of root's with this text; the text ends with a newline."""
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    return Part(
        resources=(File(path=path, sha256=sha256, mode=mode),),
        contents=MappingProxyType({path: text}),
    )
