"""What hosts have that can be placed on: declared, detected, or known by a card's name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from planner.architectures import inside, runs
from planner.declared import Flavour, Gpu, Host
from planner.fitting import Devices, older
from planner.fleet import spans, wide
from planner.gpus import BY_NAME, near
from planner.plan import Space
from planner.record import Record
from planner.traced import PROCESSORS, Processor


@dataclass(frozen=True, slots=True, kw_only=True)
class Detected(Record):
    """What preflight found on a host; what the inventory declares in full goes first."""

    gpus: tuple[Gpu, ...] = ()
    memory_bytes: int | None = None


def spaces_of(host: Host, found: Detected | None, devices: Devices) -> tuple[Space, ...] | str:
    """What the host can be placed on, or why nobody knows yet."""
    if host.flavour == "cpu":
        memory = host.memory_bytes or (found.memory_bytes if found else None)
        if memory is None:
            return "its memory is neither declared nor detected yet"
        return (
            Space(
                host=host.name,
                gpu=None,
                name="memory",
                compute_capability=None,
                total=memory,
                usable=int(memory * devices.cpu.usable_share),
            ),
        )
    gpus = _gpus(host, found)
    if isinstance(gpus, str):
        return gpus
    return tuple(
        Space(
            host=host.name,
            gpu=index,
            name=gpu.name,
            compute_capability=gpu.compute_capability,
            total=gpu.memory_bytes,
            usable=max(
                0,
                int(gpu.memory_bytes * devices.cuda.usable_share) - host.shared_gpus.get(index, 0),
            ),
        )
        for index, gpu in enumerate(gpus)
    )


def found_on(host: Host, detected: Mapping[str, Detected]) -> Detected | None:
    """What was detected on ``host``; of one of a span nothing counts but what is declared.

    Every host of a span plans all of it, and sees no other's devices.
    """
    return None if wide(host) else detected.get(host.name)


def processors(hosts: Sequence[Host], detected: Mapping[str, Detected]) -> dict[str, Processor]:
    """What the models of each host are traced for; that for an older GPU does for a newer one, too.

    Hosts that may serve a model together are planned together, from one trace. A host without a GPU
    is declared so; a GPU that nobody knows yet is taken to be a newer one.
    """
    on = {host.name: _processor(host, found_on(host, detected)) for host in hosts}
    together = [[host.name for host in span] for _, span in spans(hosts)]
    before: dict[str, Processor] = {}
    while on != before:
        before = dict(on)
        for names in together:
            on |= dict.fromkeys(names, max((on[name] for name in names), key=PROCESSORS.index))
    return on


def _processor(host: Host, found: Detected | None) -> Processor:
    if host.flavour == "cpu":
        return "cpu"
    gpus = _gpus(host, found)
    known = () if isinstance(gpus, str) else gpus
    return "older gpu" if any(older(gpu.compute_capability) for gpu in known) else "gpu"


def _gpus(host: Host, found: Detected | None) -> tuple[Gpu, ...] | str:
    """A host's GPUs: as declared; where only named, as detected or by the table."""
    seen = found.gpus if found else ()
    if host.gpus is None:
        return seen or "its GPUs are neither declared nor detected yet"
    gpus: list[Gpu] = []
    for index, declared in enumerate(host.gpus):
        if isinstance(declared, Gpu):
            gpus.append(declared)
        elif index < len(seen):
            gpus.append(seen[index])
        elif declared in BY_NAME:
            gpus.append(BY_NAME[declared].gpu)
        else:
            return _unknown(index, declared)
    return tuple(gpus) or "its GPUs are neither declared nor detected yet"


def _unknown(index: int, name: str) -> str:
    """A card that no table has may be there all the same, when the machine is looked at."""
    words = f"GPU {index}: no card is known as `{name}`"
    if found := near(name):
        words += f" (near: `{'`, `'.join(found)}`)"
    return f"{words}: declare its `memory_bytes` and `compute_capability` too"


def without_kernels(host: Host, spaces: tuple[Space, ...]) -> str:
    """Why MLX cannot run on one of the host's GPUs, "" where it can on all.

    Preflight takes a host whole or not at all; so does a plan. Where no flavour is declared, the
    driver decides it, which is known later.
    """
    flavours = [one for one in get_args(Flavour) if one != "cpu" and host.flavour in {None, one}]
    for space in spaces:
        capability = space.compute_capability
        if capability and not any(runs(flavour, capability) for flavour in flavours):
            has = ", ".join(inside(flavours[-1]))
            return (
                f"MLX has no kernels for GPU {space.gpu} ({space.name}) of compute capability "
                f"{capability}: its `{flavours[-1]}` wheel has {has}"
            )
    return ""
