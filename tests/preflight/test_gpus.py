"""What makes a GPU one that may be used, beyond what the simulated hosts show."""

from __future__ import annotations

from dataclasses import replace

from planner import gpu_verdict
from planner.declared import Gpu as DeclaredGpu
from planner.declared import Host
from planner.found import GpuProcess, HostFacts, PciDevice
from tests.preflight.cases import ALL, RTX

CASE = ALL["2 x RTX PRO 6000 Blackwell, driver 580.95.05, open modules"]
HOST = Host(name="gpu-1")
GIB = 1024**3


def facts(*, used: int = 0, processes: tuple[GpuProcess, ...] = ()) -> HostFacts:
    """Give the two-card host, so much in use on its first card."""
    found = CASE.found()
    assert found.smi is not None
    first, second = found.smi.gpus
    smi = replace(found.smi, gpus=(replace(first, used_bytes=used), second))
    return replace(found, smi=smi, gpu_processes=processes)


def process(unit: str, memory: int | None) -> GpuProcess:
    """Give a process on the first card."""
    uuid = "GPU-51b00001-0000-4000-8000-000000000000"
    return GpuProcess(gpu=uuid, pid=7, name="python", memory_bytes=memory, unit=unit)


def refusals(found: HostFacts, declared: Host = HOST) -> list[str]:
    """Give what is printed of each."""
    return [str(refusal) for refusal in gpu_verdict.judge(found, declared)]


def test_what_our_own_instances_hold_is_not_somebody_elses():
    """The second run of a deploy finds the models of the first."""
    ours = process("mlx-model@qwen3-30b.0.service", 90 * GIB)
    assert refusals(facts(used=90 * GIB + 3, processes=(ours,))) == []
    rank = process("mlx-rank@qwen3-30b.0.1.service", 90 * GIB)
    assert refusals(facts(used=90 * GIB, processes=(rank,))) == []


def test_a_gpu_that_shares_the_machines_memory_is_refused():
    """Its driver says `[N/A]` (GB10): what fits is then not told by the GPU."""
    found = facts()
    assert found.smi is not None
    first, second = found.smi.gpus
    without = replace(first, memory_bytes=None, used_bytes=None)
    (refusal,) = refusals(replace(found, smi=replace(found.smi, gpus=(without, second))))
    assert "needs a GPU with memory of its own" in refusal
    assert "GPU 0" in refusal


def test_what_others_hold_beside_ours_counts():
    """A desktop shows no compute process, and holds memory all the same."""
    ours = process("mlx-model@qwen3-30b.0.service", 40 * GIB)
    (refusal,) = refusals(facts(used=45 * GIB, processes=(ours,)))
    assert "5.0 GiB held by processes not shown" in refusal


def test_a_driver_that_does_not_tell_what_ours_hold_accuses_nobody():
    """`[N/A]`, as in some containers."""
    ours = process("mlx-model@qwen3-30b.0.service", None)
    assert refusals(facts(used=90 * GIB, processes=(ours,))) == []


def test_somebody_elses_unit_is_not_ours():
    """Its name has to be one of ours, not to contain one."""
    other = process("not-mlx-model@x.service", 2 * GIB)
    (refusal,) = refusals(facts(used=2 * GIB, processes=(other,)))
    assert "`python` (pid 7)" in refusal


def test_a_card_that_the_driver_has_but_does_not_list_is_missed():
    """One of three failed to start: the other two answer as if nothing were wrong."""
    found = CASE.found()
    third = PciDevice(address="0000:e1:00.0", kind="gpu", device="2bb1", driver="nvidia")
    (refusal,) = refusals(replace(found, pci=(*(found.pci or ()), third)))
    assert "the one at 0000:e1:00.0 does not" in refusal


def test_a_card_that_another_driver_has_is_not_ours_to_miss():
    """It was given to a virtual machine (vfio)."""
    found = CASE.found()
    third = PciDevice(address="0000:e1:00.0", kind="gpu", device="2bb1", driver="vfio-pci")
    assert refusals(replace(found, pci=(*(found.pci or ()), third))) == []


def test_a_smaller_card_of_the_same_name_is_refused():
    """Names are shared by cards of different memory."""
    declared = DeclaredGpu(name=RTX, memory_bytes=96 * GIB, compute_capability="12.0")
    refused = refusals(CASE.found(), Host(name="gpu-1", gpus=(declared, declared)))
    assert len(refused) == 2
    assert "as declared" in refused[0]
