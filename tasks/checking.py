"""The host's own, recurring check for drift."""

from __future__ import annotations

from pyinfra.api import deploy

from manifest.declaration import Declaration
from manifest.resources import Entry, Unit
from operations import files, units


@deploy("Checking")
def checking(declaration: Declaration) -> None:
    """Converge the checker, its unit and its timer."""
    part = declaration.checking
    files.converged(name="Write the checker", resources=part.of(Entry), contents=part.contents)
    units.running(name="Start its timer", units=part.of(Unit))
