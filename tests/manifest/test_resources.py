"""Resources of every kind as JSON, and back."""

from __future__ import annotations

import json

import pytest
from hypothesis import given

from manifest.manifest import Manifest, digest, read
from manifest.resources import KINDS, Directory, Package, Resource, Unit, from_json
from tests.manifest.every import MANIFESTS, RESOURCES


@given(RESOURCES)
def test_what_is_written_is_read_again(resource: Resource) -> None:
    """Every resource of every kind survives JSON."""
    assert from_json(json.loads(json.dumps(resource.to_json()))) == resource


@given(MANIFESTS)
def test_a_manifest_survives_json(manifest: Manifest) -> None:
    """In the same order."""
    again = read(json.loads(json.dumps(manifest.to_json())))
    assert again == manifest
    assert list(again.by_address()) == [one.address for one in manifest]


def test_what_the_json_does_not_say_is_not_compared() -> None:
    """A default belongs to who declares; an answer without an attribute has none."""
    assert from_json({"kind": "directory", "path": "/x"}).attributes() == {}
    declared = {"mode": "0755", "owner": "root", "group": "root"}
    assert declared.items() <= Directory(path="/x").attributes().items()


@pytest.mark.parametrize(
    "wrong", [{}, {"kind": "cathedral"}, {"path": "/x"}, {"kind": None, "path": "/x"}]
)
def test_an_unknown_kind_is_refused(wrong: dict[str, object]) -> None:
    """What nobody here knows is not passed over."""
    with pytest.raises(ValueError, match="expected one of"):
        from_json(wrong)


def test_an_unknown_attribute_is_refused() -> None:
    """A newer program's answer is not half understood."""
    with pytest.raises(ValueError, match="unit: unknown attribute: `colour`"):
        from_json({"kind": "unit", "name": "x", "colour": "red"})


def test_nothing_is_declared_twice() -> None:
    """Two resources of one address would fight for ever; the same id in two kinds is no clash."""
    Manifest((Package(name="x"), Unit(name="x")))
    with pytest.raises(ValueError, match="declared twice: package:x"):
        Manifest((Package(name="x"), Package(name="x", installed=False)))


def test_a_digest_is_of_the_content() -> None:
    """64 hexadecimal digits, the same for the same, whatever the order of keys."""
    assert len(digest({})) == 64
    assert digest({"a": 1, "b": [2, "é"]}) == digest({"b": [2, "é"], "a": 1})
    assert digest([1, 2]) != digest([2, 1])


def test_every_kind_is_frozen_and_has_its_key() -> None:
    """A kind's own word, and the attribute that names one of it."""
    for word, kind in KINDS.items():
        assert kind.kind == word
        assert kind.key in kind.__dataclass_fields__
