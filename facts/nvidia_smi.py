"""What the NVIDIA driver says through ``nvidia-smi``, or that it says nothing.

Each command here ends with the status of ``nvidia-smi`` on a line of its own, since a failure's
message is what we are after. They are to be run where a hang is survived (``facts.bundle``).
"""

from __future__ import annotations

import re

from pyinfra.api import FactBase, StringCommand
from pyinfra.api.exceptions import FactProcessError
from typing_extensions import override

from planner import found

MIB = 1024 * 1024
# All of these are there since driver 510, older than any that we accept.
FIELDS = (
    "index,uuid,pci.bus_id,name,memory.total,memory.used,compute_cap,compute_mode,"
    "mig.mode.current,ecc.mode.current,power.limit,driver_version"
)
UNAVAILABLE = re.compile(r"\[(N/A|Not Supported|Insufficient Permissions)\]|N/A")
# In place of values, when the driver cannot reach a GPU that it knew; the others are still listed.
UNREACHABLE = re.compile(r"\[(Unknown Error|GPU is lost|GPU requires reset|Reset Required)\]")


class Gpus(FactBase[found.Smi]):
    """The GPUs that the driver drives, in PCI order, or why it does not."""

    @override
    def command(self) -> StringCommand:
        return StringCommand(
            f"nvidia-smi --query-gpu={FIELDS} --format=csv,noheader,nounits; echo status $?"
        )

    @override
    def process(self, output: list[str]) -> found.Smi:
        status, lines = _status(output)
        rows = [line for line in lines if line.count(", ") == FIELDS.count(",")]
        lost = [line for line in rows if UNREACHABLE.search(line)]
        if status == 0 and rows != lines:
            raise FactProcessError(f"nvidia-smi: expected {FIELDS}, got {lines!r}")
        gpus = [_gpu(line.split(", ")) for line in rows if line not in lost]
        return found.Smi(
            status=status,
            gpus=tuple(sorted(gpus, key=lambda gpu: gpu.pci)),
            lost=tuple(lost),
            said=" ".join(line for line in lines if line not in rows),
        )


class Cuda(FactBase[str]):
    """The newest CUDA that the driver speaks, from the header; ``""`` where it does not say."""

    @override
    def command(self) -> StringCommand:
        return StringCommand("nvidia-smi")

    @override
    def process(self, output: list[str]) -> str:
        # "CUDA UMD Version" since branch 610; "N/A" where libcuda is missing.
        said = re.search(r"CUDA (?:UMD )?Version: (\d+\.\d+)", "\n".join(output))
        return said[1] if said else ""


class Processes(FactBase[tuple[found.GpuProcess, ...]]):
    """Processes that compute on a GPU, each with the systemd unit it belongs to."""

    @override
    def command(self) -> StringCommand:
        return StringCommand(
            "nvidia-smi --query-compute-apps=gpu_uuid,pid,used_gpu_memory,process_name"
            " --format=csv,noheader,nounits | while IFS= read -r line; do",
            'p=${line#*, }; p=${p%%,*}; echo "$line"; sed "s/^/cgroup /" "/proc/$p/cgroup";',
            "done 2>/dev/null",
        )

    @override
    def process(self, output: list[str]) -> tuple[found.GpuProcess, ...]:
        processes: list[found.GpuProcess] = []
        units: dict[int, str] = {}
        for line in output:
            if line.startswith("cgroup "):
                unit = re.search(r"/([^/]+\.service)(?:/|$)", line)
                if unit and processes:
                    units[processes[-1].pid] = unit[1].replace("\\x2d", "-")
            elif line.startswith("GPU-"):
                processes.append(_process(line))
        return tuple(
            found.GpuProcess(
                gpu=p.gpu,
                pid=p.pid,
                name=p.name,
                memory_bytes=p.memory_bytes,
                unit=units.get(p.pid, ""),
            )
            for p in processes
        )


def _status(output: list[str]) -> tuple[int, list[str]]:
    if not output or not re.fullmatch(r"status \d+", output[-1]):
        raise FactProcessError(f"nvidia-smi: expected a last line `status N`, got {output[-1:]!r}")
    return int(output[-1].split()[1]), [line for line in output[:-1] if line.strip()]


def _gpu(row: list[str]) -> found.Gpu:
    index, uuid, pci, name, total, used, capability, mode, mig, ecc, power, driver = row
    try:
        return found.Gpu(
            index=int(index),
            uuid=uuid,
            pci=pci.lower(),
            name=name,
            memory_bytes=_mib(total),
            used_bytes=_mib(used),
            compute_capability=_capability(capability),
            compute_mode=mode,
            mig=_value(mig),
            ecc=_value(ecc),
            power_limit_watts=None if _value(power) is None else float(power),
            driver=driver,
        )
    except ValueError:
        raise FactProcessError(f"nvidia-smi: expected {FIELDS}, got {', '.join(row)!r}") from None


def _capability(text: str) -> str:
    if not re.fullmatch(r"[0-9]+\.[0-9]+", text):
        raise ValueError(text)
    return text


def _mib(text: str) -> int | None:
    return None if _value(text) is None else int(text) * MIB


def _value(text: str) -> str | None:
    return None if UNAVAILABLE.fullmatch(text) else text


def _process(line: str) -> found.GpuProcess:
    try:
        gpu, pid, memory, name = line.split(", ", 3)
        return found.GpuProcess(
            gpu=gpu,
            pid=int(pid),
            name=name,
            memory_bytes=_mib(memory),
            unit="",
        )
    except ValueError:
        raise FactProcessError(
            f"nvidia-smi: expected `uuid, pid, MiB, name`, got {line!r}"
        ) from None
