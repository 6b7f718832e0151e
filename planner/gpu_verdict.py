"""Judge the GPUs of a host and the driver that speaks for them."""

from __future__ import annotations

from collections.abc import Iterator

from planner import architectures, requirements
from planner.declared import Gpu as DeclaredGpu
from planner.declared import Host
from planner.found import Gpu, HostFacts
from planner.refusal import Refusal
from planner.requirements import spell, version

GIB = 1024**3
OURS = ("mlx-model@", "mlx-rank@")
INSTALL = (
    "install NVIDIA's driver, branch 580 or newer, with the open kernel modules "
    "(Ubuntu: `apt install nvidia-driver-580-open`; Debian: `nvidia-open` from NVIDIA's "
    "repository), and reboot"
)
# The manual of nvidia-smi, "Return value", which are NVML's own error numbers (nvml.h).
NO_DEVICE, MISMATCH, LOST = 6, 18, 15


def driver(found: HostFacts) -> str:
    """Give the driver's version, ``""`` where there is none."""
    if found.smi is not None and found.smi.gpus:
        return found.smi.gpus[0].driver
    return found.kernel_module.version if found.kernel_module is not None else ""


def judge(found: HostFacts, declared: Host) -> Iterator[Refusal]:
    """Give every reason against the GPUs; the driver's first, since it hides the others."""
    if found.smi is None or found.kernel_module is None or found.pci is None:
        return  # said already: it could not be read
    yield from _module(found)
    yield from _answer(found)
    yield from _branch(found, declared)
    yield from _fabric(found)
    if found.smi.status == 0 and not found.smi.lost:
        yield from _silent(found)
        yield from _number_and_kind(found.smi.gpus, declared)
        for index, gpu in enumerate(found.smi.gpus):
            yield from _gpu(index, gpu, found, declared)


def _module(found: HostFacts) -> Iterator[Refusal]:
    module, devices = found.kernel_module, _on_the_bus(found)
    assert module is not None  # noqa: S101 - judge() has looked
    if module.nouveau:
        yield Refusal(
            needed="NVIDIA's kernel module to drive the GPUs",
            found="nouveau is loaded",
            way_out="blacklist nouveau (`/etc/modprobe.d`, `update-initramfs -u`) and " + INSTALL,
        )
    elif not module.version and not devices:
        yield Refusal(
            needed="an NVIDIA GPU",
            found="none on the PCI bus, and no NVIDIA driver",
            way_out="declare `flavour: cpu` if it is to serve from its CPU",
        )
    elif not module.version:
        signed = " (Secure Boot is on: the module must be signed, or its key enrolled)"
        yield Refusal(
            needed="the NVIDIA kernel module loaded",
            found=f"{devices}, no `nvidia` module loaded",
            way_out=INSTALL + (signed if module.secure_boot else ""),
        )


def _answer(found: HostFacts) -> Iterator[Refusal]:
    smi, module = found.smi, found.kernel_module
    assert smi is not None  # noqa: S101 - judge() has looked
    assert module is not None  # noqa: S101
    if smi.status is None:
        yield Refusal(
            needed="an answer from `nvidia-smi`",
            found="it hung and was given up",
            way_out="look for `NVRM: Xid` in `dmesg`, then reboot the host",
        )
    elif smi.lost or smi.status == LOST or "Unable to determine" in smi.said:
        yield Refusal(
            needed="every GPU to answer",
            found=f"{len(smi.gpus)} of {_on_the_bus(found)}: {smi.said or smi.lost[0]}",
            way_out="a GPU has fallen off the bus: power-cycle the host, reseat the card",
        )
    elif not module.version or smi.status == 0:
        return
    elif smi.status == MISMATCH:
        yield Refusal(
            needed="the driver's kernel module and libraries of one version",
            found=f"kernel module {module.version}, {_library(smi.said)}",
            way_out="reboot the host: the driver was upgraded under the loaded module",
        )
    elif smi.status == NO_DEVICE and module.open is False:
        yield Refusal(
            needed="every GPU to answer",
            found=f"the proprietary kernel module {module.version} drives none of "
            f"{_on_the_bus(found)}",
            way_out="Blackwell needs NVIDIA's open kernel modules: install them "
            "(Ubuntu: `apt install nvidia-driver-580-open`) and reboot",
        )
    else:
        yield Refusal(
            needed="an answer from `nvidia-smi`",
            found=f"exit status {smi.status}: {smi.said or 'no message'}",
            way_out="repair the driver: " + INSTALL,
        )


def _branch(found: HostFacts, declared: Host) -> Iterator[Refusal]:
    seen = driver(found)
    if not seen:
        return
    wanted = declared.flavour
    floor = requirements.DRIVER[wanted] if wanted else min(requirements.DRIVER.values())
    if version(seen) < floor:
        yield Refusal(
            needed=f"NVIDIA driver {spell(floor)} or newer"
            + (f" for the declared flavour `{wanted}`" if wanted else ""),
            found=f"driver {seen}",
            way_out=INSTALL
            + (", or leave `flavour` out" if wanted and requirements.flavour(seen) else ""),
        )


def _fabric(found: HostFacts) -> Iterator[Refusal]:
    switches = [device for device in found.pci or () if device.kind == "nvswitch"]
    module = found.kernel_module
    if switches and module is not None and module.fabric_manager != "active":
        yield Refusal(
            needed="`nvidia-fabricmanager.service` active, since there are NVSwitches",
            found=f"{len(switches)} NVSwitches, the service is "
            f"`{module.fabric_manager or 'not there'}`",
            way_out="install the fabric manager of the driver's exact version and "
            "`systemctl enable --now nvidia-fabricmanager`",
        )


def _silent(found: HostFacts) -> Iterator[Refusal]:
    assert found.smi is not None  # noqa: S101 - judge() has looked
    answering = {gpu.pci[4:] for gpu in found.smi.gpus}  # 00000000:c1:00.0 is 0000:c1:00.0 in sysfs
    for device in found.pci or ():
        bound = device.kind == "gpu" and device.driver == "nvidia"
        if bound and device.address not in answering:
            yield Refusal(
                needed="every GPU to answer",
                found=f"the one at {device.address} does not",
                way_out="look for `NVRM` in `dmesg`, then power-cycle the host or reseat the card",
            )


def _number_and_kind(gpus: tuple[Gpu, ...], declared: Host) -> Iterator[Refusal]:
    if declared.gpus is None:
        return
    wanted = [gpu if isinstance(gpu, str) else gpu.name for gpu in declared.gpus]
    if wanted != [gpu.name for gpu in gpus]:
        yield Refusal(
            needed=f"the GPUs as declared, in PCI order: {_listed(wanted)}",
            found=_listed([gpu.name for gpu in gpus]),
            way_out="put the card back, or correct `gpus` in the inventory and plan anew",
        )
        return
    for index, (want, gpu) in enumerate(zip(declared.gpus, gpus, strict=True)):
        if isinstance(want, DeclaredGpu) and gpu.memory_bytes < want.memory_bytes:
            yield Refusal(
                needed=f"{want.memory_bytes} bytes of memory on GPU {index}, as declared",
                found=f"{gpu.memory_bytes}",
                way_out="correct `gpus` in the inventory and plan anew",
            )


def _gpu(index: int, gpu: Gpu, found: HostFacts, declared: Host) -> Iterator[Refusal]:
    who = f"GPU {index} ({gpu.name}, {gpu.pci})"
    flavour = declared.flavour or requirements.flavour(gpu.driver)
    if flavour is not None and not architectures.runs(flavour, gpu.compute_capability):
        inside = ", ".join(architectures.inside(flavour))
        yield Refusal(
            needed=f"a GPU that MLX's `{flavour}` wheel has kernels for ({inside})",
            found=f"{who} of compute capability {gpu.compute_capability}",
            way_out="MLX cannot run on it: use another engine or another GPU",
        )
    if gpu.mig == "Enabled":
        yield Refusal(
            needed="whole GPUs, MIG disabled",
            found=f"{who} with MIG enabled",
            way_out=f"`nvidia-smi -i {gpu.uuid} -mig 0`, then a GPU reset or a reboot",
        )
    if gpu.compute_mode != "Default":
        yield Refusal(
            needed="compute mode Default, since checks run beside the engine",
            found=f"{who} in compute mode {gpu.compute_mode}",
            way_out=f"`nvidia-smi -i {gpu.uuid} -c DEFAULT`",
        )
    yield from _held(index, gpu, who, found, declared)


def _held(index: int, gpu: Gpu, who: str, found: HostFacts, declared: Host) -> Iterator[Refusal]:
    here = [p for p in found.gpu_processes or () if p.gpu == gpu.uuid]
    ours = [p for p in here if p.unit.startswith(OURS)]
    others = gpu.used_bytes - sum(p.memory_bytes or 0 for p in ours)
    shared = declared.shared_gpus.get(index, 0)
    if others > shared + requirements.IDLE_GPU_BYTES:
        names = [f"`{p.name}` (pid {p.pid})" for p in here if p not in ours]
        yield Refusal(
            needed=f"{who} to ourselves" + (f" but for {shared / GIB:.1f} GiB" if shared else ""),
            found=f"{others / GIB:.1f} GiB held by {', '.join(names) or 'processes not shown'}",
            way_out=f"end them, or declare what they may hold as `shared_gpus[{index}]`",
        )


def _on_the_bus(found: HostFacts) -> str:
    gpus = [device for device in found.pci or () if device.kind == "gpu"]
    return f"{len(gpus)} NVIDIA GPU{'s' * (len(gpus) != 1)} on the PCI bus" if gpus else ""


def _library(said: str) -> str:
    words = said.rpartition("NVML library version:")
    return f"library {words[2].strip()}" if words[1] else "libraries of another"


def _listed(names: list[str]) -> str:
    return ", ".join(f"{names.count(n)} x {n}" for n in dict.fromkeys(names)) or "none"
