"""The two ranks of a model, each in its unit on a lab host: what they say, and waited for."""

import json
import time
from operator import eq
from typing import Any

from lab import Host


class Ranks:
    """Rank by rank: its host, one host twice where it has both, and its instance there."""

    def __init__(self, hosts: tuple[Host, Host], instances: tuple[str, str]) -> None:
        self.hosts, self.instances = hosts, instances

    def state(self, rank: int) -> dict[str, Any]:
        path = f"/run/mlx-hosts/{self.instances[rank]}/state.json"
        text = self.hosts[rank].root_run(f"cat {path}", check=False).stdout
        return dict(json.loads(text)) if text.strip() else {}

    def engines(self) -> list[Any]:
        return [self.state(rank).get("engine_pid") for rank in (0, 1)]

    def until_new(self, before: list[Any], within_s: float) -> None:
        """Until both ranks have other engines than before, and are ready."""
        began = time.monotonic()
        # Rank by rank: where they are on two hosts, each counts its processes for itself.
        while any(map(eq, before, self.engines())) or any(
            self.state(rank).get("state") != "ready" for rank in (0, 1)
        ):
            assert time.monotonic() - began < within_s, [self.state(0), self.state(1)]
            time.sleep(0.3)
