"""On hosts with GPUs: a kernel really ran, on the GPU that the instance was given."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from testinfra.host import Host

from tests.host.declared import Declared, Instance
from tests.host.test_serving import PROCESSES, Api

# NVML through the nvidia-ml-py of the engine's runtime: every GPU, who computes on it, with what.
NVML = """
import json, pynvml
pynvml.nvmlInit()
found = {}
for index in range(pynvml.nvmlDeviceGetCount()):
    gpu = pynvml.nvmlDeviceGetHandleByIndex(index)
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(gpu)
    found[pynvml.nvmlDeviceGetUUID(gpu)] = {
        "name": pynvml.nvmlDeviceGetName(gpu),
        "sm": f"sm_{major}{minor}",
        "processes": {one.pid: one.usedGpuMemory
                      for one in pynvml.nvmlDeviceGetComputeRunningProcesses(gpu)},
    }
print(json.dumps(found))
"""


@pytest.fixture
def gpus(host: Host, declared: Declared, settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The host's GPUs by UUID."""
    if not declared.gpu:
        pytest.skip("a CPU host")
    answer = host.check_output("%s -I -c %s", f"{settings['runtime']}/bin/python", NVML)
    found: dict[str, dict[str, Any]] = json.loads(answer)
    return found


def test_the_declared_gpus_are_there(gpus: dict[str, dict], declared: Declared) -> None:
    """Kind and number are what the inventory declares."""
    wanted = declared.data.get("gpus")
    if wanted is None:
        pytest.skip("the inventory leaves it to what the host has")
    names = [one if isinstance(one, str) else one["name"] for one in wanted]
    assert sorted(gpu["name"] for gpu in gpus.values()) == sorted(names)


def test_the_engine_holds_memory_on_the_gpu_it_was_given(
    host: Host, instance: Instance, gpus: dict[str, dict], settings: dict[str, Any]
) -> None:
    """A process of the unit holds memory on each of its GPUs, and on no other."""
    answer = json.loads(host.check_output("python3 -I -c %s %s", PROCESSES, instance.unit))
    ours = {str(one["pid"]) for one in answer["processes"]}
    holding = {uuid for uuid, gpu in gpus.items() if ours & gpu["processes"].keys()}
    assert holding == set(settings["gpu_uuids"])


def test_the_model_runs_on_the_gpus_architecture(
    host: Host, instance: Instance, gpus: dict[str, dict], settings: dict[str, Any]
) -> None:
    """The engine's fingerprint of an answer names the compute capability of its GPU."""
    api = Api(host, f"/run/mlx-hosts/{instance.name}/api.sock")
    status, answer = api(
        "POST", "/v1/completions", model=instance.model["name"], prompt="1", max_tokens=1
    )
    assert status == 200, answer
    named = re.findall(r"sm_\d+", answer["system_fingerprint"])
    assert named == [gpus[settings["gpu_uuids"][0]]["sm"]]
