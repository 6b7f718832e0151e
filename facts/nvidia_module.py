"""The NVIDIA kernel module, and what may stand in its way."""

from __future__ import annotations

import re

from pyinfra.api import FactBase, StringCommand
from pyinfra.api.exceptions import FactProcessError
from typing_extensions import override

from planner import found

# One word in front of each answer; the variable's last byte is its value (UEFI 2.10, §3.3).
READ = """\
sed -n 's/^NVRM version: /nvrm /p' /proc/driver/nvidia/version 2>/dev/null
echo "module $(cat /sys/module/nvidia/version 2>/dev/null)"
[ ! -d /sys/module/nouveau ] || echo nouveau
v=/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c
echo "secureboot $(od -An -tu1 -j4 "$v" 2>/dev/null)"
echo "fabricmanager $(systemctl is-active nvidia-fabricmanager.service 2>/dev/null)\""""
VERSION = re.compile(r"\b(\d{3,}\.\d+(?:\.\d+)?)\b")


class NvidiaModule(FactBase[found.KernelModule]):
    """Version and flavour of the loaded module, nouveau, Secure Boot, the fabric manager."""

    @override
    def command(self) -> StringCommand:
        return StringCommand(READ)

    @override
    def process(self, output: list[str]) -> found.KernelModule:
        said = {key: value.strip() for key, _, value in (line.partition(" ") for line in output)}
        if "module" not in said:
            raise FactProcessError(f"nvidia module: expected `module …`, got {output!r}")
        nvrm = VERSION.search(said.get("nvrm", ""))
        version = said["module"] or (nvrm[1] if nvrm else "")
        return found.KernelModule(
            version=version,
            # "NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build …", against
            # "NVIDIA UNIX x86_64 Kernel Module  580.95.05  …".
            open="Open Kernel Module" in said["nvrm"] if "nvrm" in said else None,
            nouveau="nouveau" in said,
            secure_boot=said["secureboot"] == "1" if said.get("secureboot") else None,
            fabric_manager=said.get("fabricmanager", ""),
        )
