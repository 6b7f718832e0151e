"""The units that serve models, and what each instance is made of."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from manifest import layout
from manifest.manifest import digest
from manifest.part import Part, file
from manifest.resources import Directory, Instance, Sockets, Unit, UnitSet

TEMPLATE = "mlx-model@.service"
RANK_TEMPLATE = "mlx-rank@.service"  # the same unit: it is told by its configuration what it is
GPU_READY = "mlx-gpu-ready.service"


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """One process of a placement, with everything its engine is started from."""

    instance: str  # SLUG.REPLICA, of a rank above 0 SLUG.REPLICA.RANK
    settings: dict[str, Any]  # the guard's configuration, but for `inputs`
    weights: str | None  # digest of the model's files
    stop_timeout_s: int = 60
    group: tuple[str, ...] = ()  # the instances of all ranks, where there are several
    fabric: tuple[str, ...] = ()  # the addresses of their hosts, where these are several

    @property
    def unit(self) -> str:
        """The systemd unit's name."""
        return Instance(name=self.instance).unit


def part(
    render: Callable[..., str],
    served: Iterable[Served],
    *,
    guard: str,
    gpu_uuids: tuple[str, ...],
    mounts: tuple[str, ...],
    fabric: str | None = None,
) -> Part:
    """Declare units, configurations and instances.

    ``guard`` is the path of the guard's environment, ``gpu_uuids`` are all of the host's GPUs,
    ``mounts`` what must be mounted before a model is started, ``fabric`` is the host's address for
    ranks over several hosts.
    """
    python = f"{guard}/bin/python"
    template = render(TEMPLATE, guard_python=python)
    devices = render("mlx-model-gpu.conf") if gpu_uuids else None
    instances = [(one, _Instance(render, one, template, devices, mounts)) for one in served]
    names = tuple(sorted(f"{one.instance}.json" for one, _ in instances))
    declared = Part(resources=(Directory(path=layout.INSTANCES, entries=names),))
    if gpu_uuids:
        declared += file(
            f"{layout.UNITS}/{GPU_READY}",
            render(GPU_READY, guard_python=python, gpu_uuids=gpu_uuids),
        )
        declared += Part(resources=(_unit(GPU_READY, GPU_READY),))
    for name in (TEMPLATE, RANK_TEMPLATE):
        declared += file(f"{layout.UNITS}/{name}", template)
    for _, instance in instances:
        declared += instance.part()
    units = [one.unit for one, _ in instances]
    return declared + Part(
        resources=(
            *(_unit_set(name, units) for name in (TEMPLATE, RANK_TEMPLATE)),
            Sockets(user=layout.USER, fabric=fabric),
        )
    )


def _unit_set(template: str, units: Iterable[str]) -> UnitSet:
    prefix = template.removesuffix(".service")
    return UnitSet(
        pattern=f"{prefix}*", names=tuple(sorted(n for n in units if n.startswith(prefix)))
    )


def _unit(name: str, file_name: str, *drop_ins: str, restarts: int | None = None) -> Unit:
    return Unit(
        name=name,
        enabled="enabled",
        active="active",
        fragment=f"{layout.UNITS}/{file_name}",
        drop_ins=drop_ins,
        restarts=restarts,
    )


@dataclass(frozen=True, slots=True)
class _Instance:
    render: Callable[..., str]
    served: Served
    template: str
    devices: str | None  # the drop-in that opens NVIDIA's device nodes; None on a CPU
    mounts: tuple[str, ...]

    def part(self) -> Part:
        limits = self.render("mlx-model-limits.conf", served=self.served, mounts=self.mounts)
        drop_ins = {"10-limits.conf": limits}
        if self.devices is not None:
            drop_ins["20-gpu.conf"] = self.devices
        if self.served.group:
            others = [Instance(name=n).unit for n in self.served.group if n != self.served.instance]
            drop_ins["30-group.conf"] = self.render(
                "mlx-group.conf", others=others, fabric_addresses=self.served.fabric
            )
        settings = self.served.settings
        # Everything that, changed, makes the running engine another than the declared one.
        inputs = digest([self.template, drop_ins, settings, self.served.weights])
        text = json.dumps({**settings, "inputs": inputs}, indent=1, sort_keys=True) + "\n"
        folder = f"{layout.UNITS}/{self.served.unit}.d"
        part = file(f"{layout.INSTANCES}/{self.served.instance}.json", text)
        part += Part(resources=(Directory(path=folder, entries=tuple(sorted(drop_ins))),))
        for name, drop_in in drop_ins.items():
            part += file(f"{folder}/{name}", drop_in)
        paths = [f"{folder}/{name}" for name in sorted(drop_ins)]
        instance = Instance(
            name=self.served.instance,
            inputs=inputs,
            gpus=tuple(settings.get("gpu_uuids", ())),
            planned_bytes=settings.get("planned_bytes"),
        )
        template = TEMPLATE if instance.name == instance.leader else RANK_TEMPLATE
        # One that died and came back serves again, but somebody should know; of a group over hosts
        # each is restarted with any other, and another host may well be rebooted.
        unit = _unit(instance.unit, template, *paths, restarts=None if self.served.fabric else 0)
        return part + Part(resources=(unit, instance))
