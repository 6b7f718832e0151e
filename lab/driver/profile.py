"""A profile: one machine as its NVIDIA driver would describe it, with the sources followed."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PROFILES = Path(__file__).parent / "profiles"
NODES_OF_EVERY_DRIVER = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools")
CLASSES = {"gpu": "0x030200", "nvswitch": "0x068000"}  # 3D controller; bridge, other


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What a simulated host answers; made from ``profiles/NAME.json``.

    ``gpus`` are dictionaries as ``nvidia_smi.py`` reads them. An empty ``driver`` is no driver.
    """

    name: str
    what: str
    follows: tuple[str, ...]  # where the formats and figures come from
    gpus: tuple[dict[str, Any], ...] = ()
    driver: str = ""
    cuda: str = ""
    nvrm: str = ""  # first line of /proc/driver/nvidia/version
    modules: tuple[str, ...] = ("nvidia", "nvidia_uvm", "nvidia_modeset", "nvidia_drm")
    module_version: str | None = None  # None: the driver's
    nvswitches: int = 0
    fabric_manager: bool = False
    secure_boot: bool | None = None
    processes: tuple[dict[str, Any], ...] = ()
    hangs: bool = False
    refuses: dict[str, Any] | None = None  # {"status": 9, "says": ["…"]}
    packages: dict[str, str] = field(default_factory=dict)  # stubs for dpkg: name to version

    @classmethod
    def load(cls, name: str) -> Profile:
        """Read a profile by name; raises ``FileNotFoundError`` or ``TypeError`` for a wrong one."""
        data = json.loads((PROFILES / f"{name}.json").read_text())
        tuples = {k: tuple(v) for k, v in data.items() if isinstance(v, list)}
        return cls(name=name, **{**data, **tuples})

    @property
    def loaded_version(self) -> str:
        """The version of the loaded kernel module, ``""`` where it is not loaded."""
        if "nvidia" not in self.modules:
            return ""
        return self.driver if self.module_version is None else self.module_version

    def pci(self) -> list[str]:
        """Lines ``address class device driver`` for what is on the bus."""
        bound = next((m for m in ("nvidia", "nouveau") if m in self.modules), "-")
        gpus = [
            f"{gpu['pci'].removeprefix('0000')} {CLASSES['gpu']} {gpu['device']} {bound}"
            for gpu in self.gpus
        ]
        switch = f"{CLASSES['nvswitch']} 22a3 nvidia-nvswitch"
        return gpus + [f"0000:{5 + i:02x}:00.0 {switch}" for i in range(self.nvswitches)]

    def nodes(self) -> list[str]:
        """Names below /dev."""
        return [*NODES_OF_EVERY_DRIVER, *(f"nvidia{i}" for i in range(len(self.gpus)))]

    def flat(self) -> list[str]:
        """Lines ``key value``, which the library in C reads."""
        lines = [f"hangs {int(self.hangs)}"]
        lines.append(f"refuses {0 if self.refuses is None else self.refuses['status']}")
        lines += [f"driver {self.driver}", f"cuda {self.cuda}"]
        for index, gpu in enumerate(self.gpus):
            lines += [f"gpu.{index}.{key} {value}" for key, value in gpu.items()]
        lines += [
            f"process {p['gpu']} {p['pid']} {p['memory_mib']} {p['name']}" for p in self.processes
        ]
        return lines


def names() -> list[str]:
    """Give the names of all profiles, sorted."""
    return sorted(path.stem for path in PROFILES.glob("*.json"))
