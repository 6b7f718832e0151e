"""The one comparison: what is expected against what is there."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given

from manifest.difference import diff
from manifest.manifest import Manifest
from manifest.resources import Directory, Resource, Unit
from tests.manifest.every import MANIFESTS, RESOURCES


@given(MANIFESTS)
def test_nothing_differs_from_itself(manifest: Manifest) -> None:
    """Any manifest equals itself."""
    assert diff(manifest, manifest) == ()


@given(MANIFESTS, MANIFESTS)
def test_every_resource_is_accounted_for(expected: Manifest, actual: Manifest) -> None:
    """Missing ones are missing, strangers are strangers, and none is both."""
    found = diff(expected, actual)
    want, have = expected.by_address(), actual.by_address()
    assert {d.address for d in found if d.what == "missing"} == want.keys() - have.keys()
    assert {d.address for d in found if d.what == "unexpected"} == have.keys() - want.keys()
    assert {d.address for d in found if d.what == "differs"} <= want.keys() & have.keys()


@given(RESOURCES)
def test_each_attribute_that_differs_is_named(resource: Resource) -> None:
    """One that lost its value differs in it, and says what was expected and what was found."""
    for name, value in resource.attributes().items():
        (found,) = diff([resource], [replace(resource, **{name: None})])
        assert (found.attribute, found.expected, found.found) == (name, value, None)
        assert str(found).startswith(f"{resource.kind} {resource.id}: {name}: expected ")


@given(RESOURCES)
def test_what_is_not_declared_is_not_compared(resource: Resource) -> None:
    """An attribute that is `None` on the declaring side differs from nothing."""
    bare = replace(resource, **dict.fromkeys(resource.attributes()))
    assert diff([bare], [resource]) == ()


def test_a_difference_reads_as_a_sentence() -> None:
    """Kind, name, attribute, what was expected and what was found."""
    expected = [Directory(path="/a"), Unit(name="u", drop_ins=()), Unit(name="w")]
    actual = [Directory(path="/a", mode="0777"), Unit(name="u", drop_ins=("/x",)), Unit(name="v")]
    assert list(map(str, diff(expected, actual))) == [
        "directory /a: mode: expected `0755`, found `0777`",
        "unit u: drop_ins: expected [], found [/x]",
        "unit w: missing",
        "unit v: not declared",
    ]
