"""Judge the GPUs that a driver drives: those declared, all of them, whole, free, and able."""

from __future__ import annotations

from collections.abc import Iterator

from planner import architectures, requirements
from planner.declared import Gpu as DeclaredGpu
from planner.declared import Host
from planner.fleet import wide
from planner.found import Gpu, GpuProcess, HostFacts, PciDevice
from planner.gpus import BY_NAME
from planner.refusal import Refusal

GIB = 1024**3
OURS = ("mlx-model@", "mlx-rank@")


def judge(found: HostFacts, declared: Host) -> Iterator[Refusal]:
    """Give every reason against the GPUs, where the driver answers for all that it knows."""
    smi = found.smi
    if smi is None or smi.status != 0 or smi.lost:
        return  # for the driver's verdict
    yield from _all_answer(smi.gpus, found.pci or ())
    yield from _are_those_declared(smi.gpus, declared)
    for index, gpu in enumerate(smi.gpus):
        yield from _can_be_used(index, gpu, declared)
        here = [process for process in found.gpu_processes or () if process.gpu == gpu.uuid]
        yield from _is_free(index, gpu, here, declared)


def _all_answer(gpus: tuple[Gpu, ...], pci: tuple[PciDevice, ...]) -> Iterator[Refusal]:
    answering = {gpu.pci[4:] for gpu in gpus}  # 00000000:c1:00.0 is 0000:c1:00.0 in sysfs
    for device in pci:
        bound = device.kind == "gpu" and device.driver == "nvidia"
        if bound and device.address not in answering:
            yield Refusal(
                needed="every GPU to answer",
                found=f"the one at {device.address} does not",
                way_out="look for `NVRM` in `dmesg`, then power-cycle the host or reseat the card",
            )


def _are_those_declared(gpus: tuple[Gpu, ...], declared: Host) -> Iterator[Refusal]:
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
    spans = bool(wide(declared))  # planned by what is declared, whatever is found
    for index, (want, gpu) in enumerate(zip(declared.gpus, gpus, strict=True)):
        of_name = BY_NAME[want].gpu if isinstance(want, str) and want in BY_NAME else None
        planned = want if isinstance(want, DeclaredGpu) else of_name if spans else None
        if planned is not None and (gpu.memory_bytes or 0) < planned.memory_bytes:
            yield Refusal(
                needed=f"{planned.memory_bytes} bytes of memory on GPU {index}, as "
                + ("declared" if planned is want else "planned by its name"),
                found=f"{gpu.memory_bytes}",
                way_out="declare in `gpus` what the card has, `memory_bytes` too, and plan anew",
            )


def _can_be_used(index: int, gpu: Gpu, declared: Host) -> Iterator[Refusal]:
    flavour = declared.flavour or requirements.flavour(gpu.driver)
    if flavour is not None and not architectures.runs(flavour, gpu.compute_capability):
        inside = ", ".join(architectures.inside(flavour))
        yield Refusal(
            needed=f"a GPU that MLX's `{flavour}` wheel has kernels for ({inside})",
            found=f"{_who(index, gpu)} of compute capability {gpu.compute_capability}",
            way_out="MLX cannot run on it: use another engine or another GPU",
        )
    if gpu.memory_bytes is None:
        yield Refusal(
            needed="a GPU with memory of its own, as its driver tells it",
            found=f"{_who(index, gpu)}, of whose memory the driver says `[N/A]`",
            way_out="one that shares the machine's memory (GB10) cannot be planned for yet",
        )
    if gpu.mig == "Enabled":
        yield Refusal(
            needed="whole GPUs, MIG disabled",
            found=f"{_who(index, gpu)} with MIG enabled",
            way_out=f"`nvidia-smi -i {gpu.uuid} -mig 0`, then a GPU reset or a reboot",
        )
    if gpu.compute_mode != "Default":
        yield Refusal(
            needed="compute mode Default, since checks run beside the engine",
            found=f"{_who(index, gpu)} in compute mode {gpu.compute_mode}",
            way_out=f"`nvidia-smi -i {gpu.uuid} -c DEFAULT`",
        )


def _is_free(index: int, gpu: Gpu, here: list[GpuProcess], declared: Host) -> Iterator[Refusal]:
    ours = [process for process in here if process.unit.startswith(OURS)]
    if gpu.used_bytes is None or any(process.memory_bytes is None for process in ours):
        return  # where the driver does not tell what ours hold, it does not tell what others do
    others = gpu.used_bytes - sum(process.memory_bytes or 0 for process in ours)
    shared = declared.shared_gpus.get(index, 0)
    if others > shared + requirements.IDLE_GPU_BYTES:
        names = [f"`{p.name}` (pid {p.pid})" for p in here if p not in ours]
        yield Refusal(
            needed=f"{_who(index, gpu)} to ourselves"
            + (f" but for {shared / GIB:.1f} GiB" if shared else ""),
            found=f"{others / GIB:.1f} GiB held by {', '.join(names) or 'processes not shown'}",
            way_out=f"end them, or declare what they may hold as `shared_gpus[{index}]`",
        )


def _who(index: int, gpu: Gpu) -> str:
    return f"GPU {index} ({gpu.name}, {gpu.pci})"


def _listed(names: list[str]) -> str:
    return ", ".join(f"{names.count(n)} x {n}" for n in dict.fromkeys(names)) or "none"
