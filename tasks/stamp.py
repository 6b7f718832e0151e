"""What a run is about to do, and what it did, kept on the host."""

from __future__ import annotations

import getpass
import os
import subprocess
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from platform import node

from pyinfra.api import deploy

from manifest.declaration import Declaration
from manifest.stamp import Run
from operations import locks, runtimes, stamps


@deploy("Stamp")
def begin(declaration: Declaration) -> None:
    """Keep other runs out, then say on the host what is intended."""
    run = this_run()
    locks.held(name="Keep other deploys out", by=f"{run.operator}, since {run.time}")
    stamps.intended(
        name="Say what is intended",
        run=run,
        manifest=declaration.manifest,
        bound=declaration.bound.to_json(),
    )


@deploy("Stamp")
def finish(declaration: Declaration) -> None:
    """Clear away what is no longer declared, look at everything, and say what was done."""
    runtimes.swept(name="Clear away old environments", shelves=declaration.shelves)
    stamps.outlived(name="Clear away what nobody declares", manifest=declaration.manifest)
    stamps.applied(
        name="Say what was done",
        run=this_run(),
        manifest=declaration.manifest,
        bound=declaration.bound.to_json(),
    )
    if declaration.refusals:
        stamps.refused(name="Say what does not fit", refusals=declaration.refusals)


@cache
def this_run() -> Run:
    """Give who runs this, when, and from which commit of the checkout."""
    operator = f"{os.environ.get('SUDO_USER') or getpass.getuser()}@{node()} pid {os.getpid()}"
    return Run(
        operator=operator, time=datetime.now(UTC).isoformat(timespec="seconds"), commit=_commit()
    )


def _commit() -> str:
    git = [
        "git",
        "-C",
        str(Path(__file__).parents[1]),
        "describe",
        "--always",
        "--dirty",
        "--abbrev=40",
    ]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:  # git is not installed: the project came as an archive
        commit = ""
    return commit or "not a git checkout"
