"""States that hosts are in before a deploy, each as layers to boot a host from.

They serve the lab's tiny model: what is tested here is the deploy, and the time goes into that.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

from lab import Lab
from lab.models import TINY
from tests.deploying import Run, pyinfra

INSTANCE = "tiny.0"


def serving_tiny(lab: Lab) -> tuple[str, ...]:
    """Arguments for pyinfra under which the lab's hosts serve the tiny model."""
    revision = (lab.hub_data() or {})["models"][TINY]
    model = {"repo": TINY, "revision": revision, "name": "tiny", "context": 256, "concurrency": 2}
    return ("--data", f"models={json.dumps([model])}")


def deploy_tiny(lab: Lab, *arguments: str) -> Run:
    """Deploy the tiny model, whatever comes of it."""
    return pyinfra(lab, *serving_tiny(lab), "-y", "--json", *arguments)


# What is undone, as root, on a host that serves. Each leaves work for some stages and none for the
# others, so that an interruption costs the time of one stage and not of all.
UNDONE = {
    "unprepared": """
        rm -r /etc/mlx-hosts /etc/needrestart /etc/systemd/system/mlx-* /var/lib/mlx-hosts
        rm -r /var/cache/mlx-hosts /opt/mlx-hosts/records/models--*
        chmod 0700 /opt/mlx-hosts /opt/mlx-hosts/*
        userdel mlx
        apt-get purge -q -y python3-venv python3.11-venv >/dev/null
    """,
    "without uv and guard": """
        rm -r /opt/mlx-hosts/tools/* /opt/mlx-hosts/guards/*
        rm /opt/mlx-hosts/records/tools-* /opt/mlx-hosts/records/guards-*
    """,
    "without the runtime": """
        rm -r /opt/mlx-hosts/runtimes/* /opt/mlx-hosts/records/runtimes-*
    """,
}


class States:
    """The states, each made when it is first asked for."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._made: dict[str, list[Path]] = {}
        self._makers: dict[str, Callable[[], list[Path]]] = {
            "bare": list,
            "serving": self._serving,
            **{name: partial(self._undone, name) for name in UNDONE},
        }

    def __iter__(self):
        return iter(self._makers)

    def __getitem__(self, name: str) -> list[Path]:
        if name not in self._made:
            self._made[name] = self._makers[name]()
        return self._made[name]

    def _serving(self) -> list[Path]:
        host = self._lab.boot("serving")
        run = deploy_tiny(self._lab, "--limit", host.name)
        assert run.returncode == 0, str(run)
        return host.retire()

    def _undone(self, name: str) -> list[Path]:
        host = self._lab.boot(name.replace(" ", "-"), layers=self["serving"])
        # systemd, trying again and again, would now and then start it before the deploy does.
        stop = f"systemctl disable --quiet --now mlx-model@{INSTANCE}.service"
        host.root_run(f"set -eu\n{stop}\n{UNDONE[name]}", timeout_s=300)
        return host.retire()
