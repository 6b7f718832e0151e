"""Where things are on a host. These names are the interface: moving one is a decision."""

from __future__ import annotations

from typing import Final

VERSION: Final = 1  # of this layout; part of every runtime's digest

USER: Final = "mlx"
OPT: Final = "/opt/mlx-hosts"
ETC: Final = "/etc/mlx-hosts"
STATE: Final = "/var/lib/mlx-hosts"
CACHE: Final = "/var/cache/mlx-hosts"
RUN: Final = "/run/mlx-hosts"
UNITS: Final = "/etc/systemd/system"

HUB: Final = f"{STATE}/hub"  # weights, in the hub cache layout
RECORDS: Final = f"{OPT}/records"  # what every sealed tree contains, outside the trees
RUNTIMES: Final = f"{OPT}/runtimes"  # engines' virtual environments
GUARDS: Final = f"{OPT}/guards"
TOOLS: Final = f"{OPT}/tools"  # what builds them: uv
INSTANCES: Final = f"{ETC}/instances"
CHECK: Final = f"{OPT}/check"  # what a host checks itself with
TOLERATED: Final = f"{ETC}/tolerated.json"  # what it is to let pass
STAMP: Final = f"{ETC}/stamp.json"
LOCK: Final = "/run/mlx-hosts-deploy.lock"
