"""What a host's disks must have room for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath

from manifest import layout
from manifest.runtime import Interpreter, environment
from manifest.weights import Snapshot
from planner import requirements, verdict
from planner.declared import Host
from planner.found import HostFacts

LOCKS = Path(__file__).parents[1] / "locks"
PLACES = (layout.OPT, layout.HUB)


def runtime(declared: Host, found: HostFacts) -> dict[str, int]:
    """Give the bytes that the runtime takes, by its path on the host.

    A host whose flavour or interpreter is unknown is refused for that; it wants nothing here.
    """
    flavour = verdict.flavour(found, declared)
    if flavour is None or not found.python or not found.python.version or not found.kernel:
        return {}
    python = Interpreter(
        path=found.python.path,
        version=found.python.version,
        architecture=found.kernel.architecture,
    )
    text = (LOCKS / f"{flavour}.txt").read_text(encoding="utf-8")
    return {environment(layout.RUNTIMES, text, python).path: requirements.RUNTIME_BYTES[flavour]}


def weights(snapshots: Iterable[Snapshot]) -> dict[str, int]:
    """Give the bytes of each file that is fetched, by where the hub's client keeps its content."""
    return {
        f"{PurePath(one.path).parents[1]}/blobs/{blob.hash.rpartition(':')[2]}": blob.size
        for one in snapshots
        if one.repo is not None
        for blob in one.blobs
    }


def below(wants: Mapping[str, int], present: Mapping[str, int]) -> dict[str, int]:
    """Add up what is still to be written below each place, given what is there.

    What begins with a path's name is of it, too: half a file, whatever its client calls that.
    """
    return {
        place: sum(
            max(0, size - sum(has for one, has in present.items() if one.startswith(path)))
            for path, size in wants.items()
            if path.startswith(f"{place}/")
        )
        for place in PLACES
    }
