"""The host's own check for drift: program, unit and timer."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping

from manifest import layout
from manifest.part import Part, file
from manifest.resources import Directory, Unit
from manifest.tolerance import Tolerance

SERVICE = "mlx-drift.service"
TIMER = "mlx-drift.timer"
# What of the checkout runs on the host, and under which name there: standard library only.
PROGRAM: Mapping[str, str] = {
    "facts/on_host.py": "__main__.py",
    "facts/tree_program.py": "tree_program.py",
    "facts/probe_program.py": "probe_program.py",
    **{
        f"manifest/{name}.py": f"manifest/{name}.py"
        for name in (
            "__init__",
            "findings",
            "judgement",
            "layout",
            "manifest",
            "metrics",
            "resources",
            "stamp",
            "tolerance",
        )
    },
}


def part(
    render: Callable[..., str],
    program: Mapping[str, str],
    tolerances: Iterable[Tolerance],
    *,
    python: str,
) -> Part:
    """Declare it; ``program`` is the text of each file of ``PROGRAM``, by its name on the host."""
    folders = {"": {"manifest"}, "manifest": set[str]()}
    for path in program:
        folder, _, name = path.rpartition("/")
        folders[folder].add(name)
    declared = Part(
        resources=tuple(
            Directory(path=f"{layout.CHECK}/{folder}".rstrip("/"), entries=tuple(sorted(names)))
            for folder, names in folders.items()
        )
    )
    for path, text in program.items():
        declared += file(f"{layout.CHECK}/{path}", text)
    tolerated = json.dumps([one.to_json() for one in tolerances], indent=1) + "\n"
    declared += file(layout.TOLERATED, tolerated)
    declared += file(
        f"{layout.UNITS}/{SERVICE}", render(SERVICE, python=python, checker=layout.CHECK)
    )
    declared += file(f"{layout.UNITS}/{TIMER}", render(TIMER))
    # Whether the service runs is the timer's business; while it looks at the host, it does.
    service = Unit(
        name=SERVICE,
        enabled="static",  # of no target, and not masked
        fragment=f"{layout.UNITS}/{SERVICE}",
        drop_ins=(),
    )
    timer = Unit(
        name=TIMER,
        enabled="enabled",
        active="active",
        fragment=f"{layout.UNITS}/{TIMER}",
        drop_ins=(),
    )
    return declared + Part(resources=(service, timer))
