"""What NVML says of every GPU, by nvidia-ml-py."""

import json

import pynvml as n


def told(function, *arguments):
    """Give the answer, or NVML's error."""
    try:
        answer = function(*arguments)
    except n.NVMLError as error:
        return f"{type(error).__name__}: {error}"
    if hasattr(answer, "_fields_"):
        return {field: str(getattr(answer, field)) for field, *_ in answer._fields_}
    return [str(one) for one in answer] if isinstance(answer, list) else answer


n.nvmlInit()
functions = [
    n.nvmlDeviceGetName, n.nvmlDeviceGetUUID, n.nvmlDeviceGetPciInfo, n.nvmlDeviceGetMemoryInfo,
    n.nvmlDeviceGetCudaComputeCapability, n.nvmlDeviceGetComputeMode, n.nvmlDeviceGetMigMode,
    n.nvmlDeviceGetEccMode, n.nvmlDeviceGetPowerManagementLimit, n.nvmlDeviceGetPersistenceMode,
    n.nvmlDeviceGetComputeRunningProcesses,
]  # fmt: skip
gpus = []
for index in range(n.nvmlDeviceGetCount()):
    handle = n.nvmlDeviceGetHandleByIndex(index)
    gpu = {function.__name__: told(function, handle) for function in functions}
    gpu["nvmlDeviceGetMemoryInfo_v2"] = told(n.nvmlDeviceGetMemoryInfo, handle, n.nvmlMemory_v2)
    gpus.append(gpu)
print(
    json.dumps(
        {
            "driver": n.nvmlSystemGetDriverVersion(),
            "nvml": n.nvmlSystemGetNVMLVersion(),
            "cuda": n.nvmlSystemGetCudaDriverVersion(),
            "gpus": gpus,
        }
    )
)
