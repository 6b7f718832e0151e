"""What preflight found on one host, before anything of ours is there.

Written by ``facts``, judged by ``planner.verdict``. A field of ``HostFacts`` that is ``None`` could
not be read; ``unread`` says why. Sizes are bytes, versions are text as the host spells it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """``/etc/os-release``: ``debian`` ``12``, ``Debian GNU/Linux 12 (bookworm)``."""

    id: str
    version: str  # "" on a rolling release
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """What ``uname`` says: ``6.1.0-25-amd64``, ``x86_64``."""

    release: str
    architecture: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Python:
    """An interpreter: the path it was asked by, and its version, ``""`` where there is none."""

    path: str
    version: str
    executable: str  # the file itself, links resolved


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceManager:
    """The process 1 of the host, and systemd's version, 0 where there is none."""

    first_process: str
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """Where a directory is, or would be: the file system below it and what is free there."""

    path: str
    filesystem: str  # device or source, tells two paths on the same one
    mounted_on: str
    free_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """One mounted file system."""

    path: str
    kind: str
    read_only: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """The machine's own memory."""

    total_bytes: int
    available_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PciDevice:
    """An NVIDIA device on the PCI bus, whether or not a driver speaks for it."""

    address: str
    kind: str  # "gpu", "nvswitch" or "other"
    device: str  # PCI device id, "2bb1"
    driver: str  # the kernel module bound to it, "" for none


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelModule:
    """The NVIDIA kernel module as it is loaded, and what stands in its way."""

    version: str  # "" where it is not loaded
    open: bool | None  # NVIDIA's open kernel modules; None where not loaded
    nouveau: bool
    secure_boot: bool | None  # None: not an EFI machine, or not told
    fabric_manager: str  # `systemctl is-active nvidia-fabricmanager`'s word


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU as ``nvidia-smi`` reports it; ``None`` where it says ``[N/A]``."""

    index: int
    uuid: str
    pci: str
    name: str
    memory_bytes: int | None
    used_bytes: int | None
    compute_capability: str
    compute_mode: str
    mig: str | None
    ecc: str | None
    power_limit_watts: float | None
    driver: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Smi:
    """``nvidia-smi``'s answer: exit status (``None``: it did not come back), GPUs, what it said."""

    status: int | None
    gpus: tuple[Gpu, ...] = ()
    lost: tuple[str, ...] = ()  # rows in which it says that it cannot reach the GPU
    said: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuProcess:
    """A process that computes on a GPU; ``unit`` is the systemd unit it belongs to, or ``""``."""

    gpu: str  # UUID
    pid: int
    name: str
    memory_bytes: int | None
    unit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """All that preflight looked at."""

    distribution: Distribution | None = None
    kernel: Kernel | None = None
    glibc: str | None = None  # "" where the C library is another
    python: Python | None = None
    service_manager: ServiceManager | None = None
    room: tuple[Room, ...] | None = None
    mounts: tuple[Mount, ...] | None = None
    addresses: tuple[str, ...] | None = None  # IPv4
    memory: Memory | None = None
    package_manager: tuple[str, ...] | None = None  # who is at the packages
    pci: tuple[PciDevice, ...] | None = None
    kernel_module: KernelModule | None = None
    smi: Smi | None = None
    cuda: str | None = None  # the newest CUDA that the driver speaks, "" where it does not say
    gpu_processes: tuple[GpuProcess, ...] | None = None
    unread: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Give plain dictionaries: pyinfra prints facts as JSON."""
        return asdict(self)
