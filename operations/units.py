"""systemd units: the right file and drop-ins loaded, enabled, running."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pyinfra.api import QuoteString, StringCommand, operation

from manifest.difference import Difference
from manifest.resources import Unit, UnitSet
from operations.convergence import Command, Commands, Comparison, converge, script
from operations.files import remove

# systemd counts our starts with those after a failure, and refuses both after a few: the count
# begins anew, which cannot be asked of a unit that is not loaded. With it goes the count that drift
# tells of, which a run takes back in any case (see `mend`).
# Whoever reads this at night is told nothing by systemd's own words, but by the unit's last ones.
START = """
set -eu
verb=$1; shift
for unit; do
  loaded=$(systemctl list-units --all --plain --no-legend "$unit")
  if [ -n "$loaded" ]; then systemctl reset-failed "$unit"; fi
done
systemctl $verb "$@" || {
  for unit; do journalctl --no-pager --output=cat --lines=40 --unit="$unit" >&2; done
  exit 1
}
"""


@operation()
def running(units: Sequence[Unit]) -> Commands:
    """
    Ensure that units are loaded as declared, and enabled and running where that is declared.

    + units: the units as declared
    """
    yield from converge("units", units, _run)


@operation()
def only(unit_sets: Sequence[UnitSet]) -> Commands:
    """
    Ensure that of templates of ours no other instances run than those declared.

    + unit_sets: pattern and names, one for each template
    """
    yield from converge("units", unit_sets, _end_others)


def mend(compared: Comparison) -> Iterator[Command]:
    """Yield what makes systemd see each unit as declared: masks, strangers, files, enablement."""
    for unit in compared.differing(Unit):
        differs = compared.of(unit)
        if "fragment" in differs or masked(differs):
            # A mask, or a whole unit that shadows ours.
            paths = [f"/etc/systemd/system/{unit.name}", f"/run/systemd/system/{unit.name}"]
            yield from (remove(path) for path in paths if path != unit.fragment)
        if "drop_ins" in differs:
            found, expected = differs["drop_ins"].found or (), differs["drop_ins"].expected
            yield from map(remove, sorted({*found} - {*expected}))
    yield StringCommand("systemctl daemon-reload")
    for unit in compared.differing(Unit):
        if "restarts" in compared.of(unit):
            # Counted from here on again; what runs, runs on.
            yield StringCommand("systemctl reset-failed", QuoteString(unit.name))
        if unit.enabled == "enabled" and {"", "enabled", "fragment"} & compared.of(unit).keys():
            yield StringCommand("systemctl reenable --quiet", QuoteString(unit.name))


def start(verb: str, *units: str) -> StringCommand:
    """Start or restart units together, and show their last words where they do not come up.

    ``verb`` is `start` or `restart`, with options of systemctl's.
    """
    return script(START, verb, *units)


def _run(compared: Comparison) -> Iterator[Command]:
    yield from mend(compared)
    for unit in compared.differing(Unit):
        if unit.active == "active" and {"", "active", "enabled"} & compared.of(unit).keys():
            yield start("start", unit.name)


def _end_others(compared: Comparison) -> Iterator[Command]:
    for difference in compared.differences:
        for name in sorted({*(difference.found or ())} - {*difference.expected}):
            yield StringCommand("systemctl disable --now --quiet", QuoteString(name))
            yield remove(f"/etc/systemd/system/{name}.d")
            yield script(
                'if systemctl is-failed --quiet "$1"; then systemctl reset-failed "$1"; fi', name
            )


def masked(differs: Mapping[str, Difference]) -> bool:
    """Whether a unit, by its differences, was found masked."""
    return "enabled" in differs and differs["enabled"].found in {"masked", "masked-runtime"}
