"""Look at a host before anything is done to it, and refuse it with every reason at once."""

from __future__ import annotations

from collections.abc import Mapping

from pyinfra import host, inventory, logger, state

from facts.bare_host import BareHost
from facts.package_manager import PackageManager
from facts.present import Present
from facts.python import DEFAULT
from facts.room import Room
from manifest.declaration import Declaration
from planner import requirements, verdict
from planner.bound import Bound
from planner.declared import Host
from planner.found import HostFacts
from planner.refusal import Refusal
from tasks import room

PACKAGES_SECONDS = 300  # a first boot's upgrades
ROUND_TRIP_SECONDS = 60  # the host itself gives up long before


def preflight(declared: Host) -> Bound | None:
    """Bind the host to its declaration, or refuse it, tell why and give ``None``.

    Changes nothing on the host. A host refused is failed in pyinfra's state, so that the others go
    on and the run's exit status is 1.
    """
    found = _look(declared)
    if found is not None and found.package_manager:
        host.log(f"waiting for the package manager: {'; '.join(found.package_manager)}")
        host.get_fact(PackageManager, seconds=PACKAGES_SECONDS, _timeout=PACKAGES_SECONDS + 30)
        found = _look(declared)  # whoever was at it may have changed the rest
    if found is None:
        return None  # pyinfra has failed the host and said why
    wants = _wanted(found, room.runtime(declared, found))
    refusals = verdict.judge(found, declared, room=wants)
    if refusals:
        _refuse(declared.name, refusals)
        return None
    return verdict.bind(found, declared)


def has_room(declaration: Declaration) -> bool:
    """Whether there is room for all that is planned for the host; else it is refused."""
    wants = room.weights(declaration.snapshots)
    if not wants:
        return True
    wants[declaration.engine.path] = requirements.RUNTIME_BYTES[declaration.bound.flavour]
    found = HostFacts(room=host.get_fact(Room, paths=room.PLACES))
    refusals = verdict.lacking(found, _wanted(found, wants))
    if refusals:
        _refuse(declaration.host.name, refusals)
    return not refusals


def _wanted(found: HostFacts, wants: Mapping[str, int]) -> dict[str, int]:
    whole = room.below(wants, present={})
    if not verdict.lacking(found, whole):
        return whole
    # Only now is it worth counting what is there already: a run before this one, half a download.
    present: dict[str, int] = host.get_fact(Present, paths=[*wants], _timeout=120)
    return room.below(wants, present=present)


def _look(declared: Host) -> HostFacts | None:
    found: HostFacts | None = host.get_fact(
        BareHost,
        python=declared.site.python or DEFAULT,
        paths=room.PLACES,
        _timeout=ROUND_TRIP_SECONDS,
    )
    return found


def _refuse(name: str, refusals: tuple[Refusal, ...]) -> None:
    host.log_styled(
        "\n".join([f"preflight: {name} is refused", *(f"  - {refusal}" for refusal in refusals)]),
        fg="red",
        log_func=logger.error,
    )
    # The context `host` itself, passed here, breaks pyinfra's report.
    state.fail_hosts({inventory.get_host(host.name)})  # type: ignore[no-untyped-call]
