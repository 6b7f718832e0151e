"""The units that serve models, running from what is declared."""

from __future__ import annotations

from pyinfra.api import deploy

from manifest.declaration import Declaration
from manifest.resources import Entry, Instance, Sockets, Unit, UnitSet
from operations import files, instances, sockets, units


@deploy("Serving")
def serving(declaration: Declaration) -> None:
    """Converge configurations and units, end what is not declared, start what is."""
    part = declaration.serving
    by_name = {unit.name: unit for unit in part.of(Unit)}
    served: dict[str, list[Unit | Instance]] = {}
    if declaration.peers:
        instances.possible(name="Ask for the other hosts", hosts=declaration.peers)
    for one in part.of(Instance):
        served.setdefault(one.leader, []).extend((by_name.pop(one.unit), one))
    units.only(name="End instances that are not declared", unit_sets=part.of(UnitSet))
    sockets.closed(name="End what listens besides them", sockets=part.of(Sockets))
    files.converged(
        name="Write units and settings", resources=part.of(Entry), contents=part.contents
    )
    instances.parted(
        name="Stop what is in another's place",
        ranks=[one for ranks in served.values() for one in ranks if isinstance(one, Instance)],
    )
    if by_name:
        units.running(name="Wait for the GPUs", units=tuple(by_name.values()))
    over_hosts = {name: served.pop(name) for name in declaration.spanning}
    # Of a group over hosts no rank comes up before the others are begun, each on its host.
    for ranks in over_hosts.values():
        instances.begun(name=f"Begin {ranks[0].id}", ranks=ranks)
    for ranks in served.values():
        instances.ready(name=f"Start {ranks[0].id}", ranks=ranks)
    for ranks in over_hosts.values():
        instances.met(name=f"Wait for {ranks[0].id}", ranks=ranks)
