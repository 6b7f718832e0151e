"""The documentation's tables are those of the catalogues."""

from tests.drift.by_hand import CATALOGUE
from tests.drift.harmless import HARMLESS
from tests.drift.tables import PAGE, filled


def test_the_tables_in_the_documentation_are_made_from_the_catalogues() -> None:
    """`python -m tests.drift.tables` would change nothing."""
    text = PAGE.read_text(encoding="utf-8")
    assert filled(text) == text


def test_the_catalogues_are_as_large_as_they_are_said_to_be() -> None:
    """At least 30 changes by hand, at least 40 that are none."""
    assert len({one.id for one in CATALOGUE}) == len(CATALOGUE) >= 30
    assert len(HARMLESS) >= 40
