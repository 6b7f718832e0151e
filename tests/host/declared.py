"""An inventory as its author wrote it: the only thing that these tests know of a host beforehand.

pyinfra itself reads it (groups, `group_data` and all); what is made of it here is as little as an
operator would work out by hand.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Declared:
    """One host of an inventory; ``data`` is what the inventory says of it."""

    name: str
    data: dict[str, Any]

    @property
    def gpu(self) -> bool:
        return self.data.get("flavour") != "cpu"

    @property
    def models(self) -> list[dict[str, Any]]:
        return list(self.data.get("models") or ())

    @property
    def instances(self) -> list[Instance]:
        """What is to be served, as far as the inventory alone says it.

        How many replicas ``fill`` comes to, is for the plan; at least one.
        """
        return [
            Instance(host=self, model=model, replica=replica)
            for model in self.models
            for replica in range(_replicas(model))
        ]

    @property
    def open_ended(self) -> bool:
        """Whether there may be more instances than ``instances`` names."""
        return any(model.get("replicas") == "fill" for model in self.models)


@dataclass(frozen=True, slots=True)
class Instance:
    """One replica of a model on a host, or the host's rank of one that is on several."""

    host: Declared
    model: dict[str, Any]
    replica: int
    rank: int = 0

    @property
    def name(self) -> str:
        return f"{self.slug}.{self.replica}" + (f".{self.rank}" if self.rank else "")

    @property
    def spans(self) -> bool:
        """Whether it may be on several hosts; on which it has what rank, is for the plan."""
        return bool(self.model.get("hosts_spanned", 1) > 1)

    @property
    def slug(self) -> str:
        last = self.model["name"].rpartition("/")[2].lower()
        made = re.sub(r"[^a-z0-9]+", "-", last).strip("-")[:40].strip("-")
        return str(self.model.get("slug") or made)

    @property
    def unit(self) -> str:
        return f"mlx-{'rank' if self.rank else 'model'}@{self.name}.service"

    @property
    def settings(self) -> str:
        return f"/etc/mlx-hosts/instances/{self.name}.json"

    @property
    def snapshot(self) -> str:
        """The directory of the model's files, in the layout of every Hugging Face tool."""
        if "path" in self.model:
            return str(self.model["path"])
        folder = f"models--{self.model['repo'].replace('/', '--')}"
        return f"/var/lib/mlx-hosts/hub/{folder}/snapshots/{self.model['revision']}"

    @property
    def files(self) -> list[dict[str, Any]]:
        """The model's files, as the hub listed them: path, size, `sha256` or git's `oid`.

        They stand beside the inventory, in the file that its ``models_lock`` names.
        """
        lock = ROOT / self.host.data.get("models_lock", "inventories/models.lock")
        models = json.loads(lock.read_text(encoding="utf-8"))["models"]
        return list(models[f"{self.model['repo']}@{self.model['revision']}"]["files"])


def read(inventory: str) -> list[Declared]:
    """Read an inventory through pyinfra; raises ``RuntimeError`` with what it says against it.

    What pyinfra makes of it (`pyinfra INVENTORY debug-inventory --json`) will do as well, in a file
    whose name ends so.
    """
    if inventory.endswith(".json"):
        return _hosts(Path(inventory).read_text(encoding="utf-8"))
    pyinfra = Path(sys.executable).with_name("pyinfra")
    done = subprocess.run(
        [pyinfra, Path(inventory).absolute(), "debug-inventory", "--json"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return _hosts(done.stdout)


def _hosts(text: str) -> list[Declared]:
    return [Declared(one["name"], one["data"]) for one in json.loads(text)]


def _replicas(model: dict[str, Any]) -> int:
    count = model.get("replicas", 1)
    return count if isinstance(count, int) else 1
