"""What a process holds on the GPU after the import of MLX, and after its first kernel."""

import json
import os
import time

import pynvml as n


def held():
    """Give this process's bytes on each GPU and all bytes used there, by NVML."""
    found = []
    for index in range(n.nvmlDeviceGetCount()):
        handle = n.nvmlDeviceGetHandleByIndex(index)
        ours = [p for p in n.nvmlDeviceGetComputeRunningProcesses(handle) if p.pid == os.getpid()]
        found.append(
            {
                "process": sum(p.usedGpuMemory or 0 for p in ours),
                "used": n.nvmlDeviceGetMemoryInfo(handle).used,
            }
        )
    return found


n.nvmlInit()
steps = {"before": held()}
began = time.monotonic()
import mlx.core as mx  # noqa: E402

steps["imported"] = held()
seconds = {"import": time.monotonic() - began}
began = time.monotonic()
mx.eval(mx.ones((1024, 1024)) @ mx.ones((1024, 1024)))
seconds["first matrix product"] = time.monotonic() - began
steps["first matrix product"] = held()
print(json.dumps({"held": steps, "seconds": seconds, "mlx_active": mx.get_active_memory()}))
