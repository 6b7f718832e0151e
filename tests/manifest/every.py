"""Any resource of any kind, and any manifest, for properties that hold of all of them."""

from __future__ import annotations

from dataclasses import fields
from typing import get_type_hints

from hypothesis import strategies as st

from manifest.manifest import Manifest
from manifest.resources import KINDS, Resource

WORDS = st.text(max_size=8)
VALUES = {
    str: WORDS,
    bool: st.booleans(),
    int: st.integers(-(2**53), 2**53),
    float: st.floats(allow_nan=False, allow_infinity=False),
    tuple[str, ...]: st.lists(WORDS, max_size=3).map(tuple),
    tuple[int, ...]: st.lists(st.integers(0, 2**16), max_size=3).map(tuple),
    type(None): st.none(),
}


def values(hint: object) -> st.SearchStrategy:
    """Give any value of a field's type."""
    options = getattr(hint, "__args__", ()) if hint not in VALUES else (hint,)
    return st.one_of(*(VALUES[option] for option in options))


def of_kind(kind: type[Resource]) -> st.SearchStrategy[Resource]:
    """Give any resource of a kind."""
    hints = get_type_hints(kind)
    return st.builds(kind, **{field.name: values(hints[field.name]) for field in fields(kind)})


RESOURCES = st.one_of(*map(of_kind, KINDS.values()))
MANIFESTS = st.lists(RESOURCES, max_size=6, unique_by=lambda one: one.address).map(
    lambda resources: Manifest(tuple(resources))
)
