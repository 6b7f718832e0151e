"""Everything that preflight reads, in one round trip that nothing on the host can hold up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pyinfra.api import FactBase, StringCommand
from pyinfra.api.exceptions import FactProcessError
from typing_extensions import override

from facts import python
from facts.addresses import Addresses
from facts.bundle import Section, bundle, unbundle
from facts.distribution import Distribution
from facts.glibc import Glibc
from facts.kernel import Kernel
from facts.memory import Memory
from facts.mounts import Mounts
from facts.nvidia_module import NvidiaModule
from facts.nvidia_smi import Cuda, Gpus, Processes
from facts.package_manager import PackageManager
from facts.pci import NvidiaDevices
from facts.room import Room
from facts.service_manager import ServiceManager
from planner import found

FACTS: dict[str, FactBase[Any]] = {
    "distribution": Distribution(),
    "kernel": Kernel(),
    "glibc": Glibc(),
    "python": python.Python(),
    "service_manager": ServiceManager(),
    "room": Room(),
    "mounts": Mounts(),
    "addresses": Addresses(),
    "memory": Memory(),
    "package_manager": PackageManager(),
    "pci": NvidiaDevices(),
    "kernel_module": NvidiaModule(),
    "smi": Gpus(),
    "cuda": Cuda(),
    "gpu_processes": Processes(),
}
# What a silent driver means is for the verdict to say, not one more thing that could not be read.
OF_THE_DRIVER = {"smi", "cuda", "gpu_processes"}
# A machine with 8 GPUs and no persistence daemon initialises them anew for each `nvidia-smi`.
SECONDS = 20


class BareHost(FactBase[found.HostFacts | None]):
    """What a host promises before anything of ours is on it; ``None`` if it could not be asked."""

    @override
    def command(
        self, python: str = python.DEFAULT, paths: Iterable[str] = ("/",), seconds: int = SECONDS
    ) -> StringCommand:
        arguments: Mapping[str, Any] = {"python": {"path": python}, "room": {"paths": paths}}
        return bundle(
            {
                name: StringCommand(fact.command(**arguments.get(name, {})))
                for name, fact in FACTS.items()
            },
            seconds=seconds,
        )

    @override
    def process(self, output: list[str]) -> found.HostFacts:
        sections = unbundle(output)
        values: dict[str, Any] = {}
        unread: list[str] = []
        for name, fact in FACTS.items():
            try:
                values[name] = _read(name, fact, sections)
            except FactProcessError as error:
                unread.append(str(error))
        return found.HostFacts(**values, unread=tuple(unread))


def _read(name: str, fact: FactBase[Any], sections: dict[str, Section]) -> object:
    section = sections.get(name)
    if section is None:
        raise FactProcessError(f"{name}: the host gave no answer")
    if section.status is None:
        if name == "smi":
            return found.Smi(status=None)
        if name in OF_THE_DRIVER:
            return None
        raise FactProcessError(f"{name}: no answer in time")
    return fact.process(section.lines)
