"""A host's manifest: every resource declared, applied or found, and its JSON."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from manifest.resources import Resource, from_json

VERSION = 1


@dataclass(frozen=True, slots=True)
class Manifest:
    """Resources by address, in the order given."""

    resources: tuple[Resource, ...] = ()

    def __post_init__(self) -> None:
        addresses = [resource.address for resource in self.resources]
        if twice := {address for address in addresses if addresses.count(address) > 1}:
            raise ValueError(f"manifest: declared twice: {', '.join(sorted(twice))}")

    def __iter__(self) -> Iterator[Resource]:
        return iter(self.resources)

    def __len__(self) -> int:
        return len(self.resources)

    def __add__(self, other: Iterable[Resource]) -> Manifest:
        return Manifest((*self.resources, *other))

    def by_address(self) -> dict[str, Resource]:
        """Give each resource under its address."""
        return {resource.address: resource for resource in self.resources}

    def to_json(self) -> list[dict[str, Any]]:
        """Give what ``read`` reads."""
        return [resource.to_json() for resource in self.resources]


def read(data: Iterable[dict[str, Any]]) -> Manifest:
    """Make a manifest of its JSON; raises ``ValueError`` where it is not one."""
    return Manifest(tuple(from_json(item) for item in data))


def digest(value: object) -> str:
    """SHA-256 of a JSON value with sorted keys, in hexadecimal."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
