"""Ask the probe as a host does, with a stand-in for one of the host's tools."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from facts.probe import question
from manifest.resources import Resource


def probed(place: Path, resources: Iterable[Resource], tool: str, script: str) -> dict[str, Any]:
    """Give the probe's answer on a host with this ``tool``; its stamp is in ``place``."""
    stand_in = place / tool
    stand_in.write_text(f"#!/bin/sh\n{script}\n")
    stand_in.chmod(0o755)
    told = subprocess.run(
        [sys.executable, "-I", "-"],
        input=question(resources).replace("/etc/mlx-hosts/stamp.json", f"{place}/stamp.json"),
        env={"PATH": f"{place}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    answer: dict[str, Any] = json.loads(told)
    return answer
