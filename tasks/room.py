"""What a host's disks must have room for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hub.lock import Lock
from manifest import layout
from manifest.runtime import Interpreter, environment
from manifest.weights import snapshot
from planner import requirements, verdict
from planner.declared import Host
from planner.found import HostFacts

LOCKS = Path(__file__).parents[1] / "locks"
PLACES = (layout.OPT, layout.HUB)


def wanted(declared: Host, found: HostFacts, lock: Lock) -> dict[str, int]:
    """Give the bytes that the runtime and each model in the lock take, by path on the host.

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
    wants = {environment(layout.RUNTIMES, text, python).path: requirements.RUNTIME_BYTES[flavour]}
    for model in declared.models:
        entry = lock.entry(model)
        if model.repo is not None and entry is not None:
            path = Path(snapshot(model.repo, str(model.revision), ()).path)
            wants[str(path.parents[1])] = entry.download_bytes
    return wants


def below(wants: Mapping[str, int], present: Mapping[str, int]) -> dict[str, int]:
    """Add up what is still to be written below each place, given what is there."""
    return {
        place: sum(
            max(0, size - present.get(path, 0))
            for path, size in wants.items()
            if path.startswith(f"{place}/")
        )
        for place in PLACES
    }
