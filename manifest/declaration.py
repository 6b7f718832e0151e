"""Everything that one host is to have, computed before anything on it is touched."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from manifest import base, checking, layout, serving
from manifest.manifest import Manifest
from manifest.part import Part
from manifest.resources import Device, DeviceSet, Directory, Driver, Entry, Resource, Shelf
from manifest.runtime import Environment, Interpreter, environment
from manifest.serving import Served
from manifest.tolerance import Tolerance
from manifest.weights import Snapshot
from planner.bound import Bound
from planner.declared import Host


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """The texts of the checkout that hosts are made from."""

    locks: Mapping[str, str]  # requirements files by name: uv, guard, cpu, cuda12, cuda13
    guard: Mapping[str, str]  # the guard's source files, by path below site-packages
    checker: Mapping[str, str]  # what a host checks itself with, by path below its directory
    render: Callable[..., str]  # templates/


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One placed model, or one rank of it: its files, and the settings of its guard."""

    instance: str
    snapshot: Snapshot
    settings: Mapping[str, Any]  # the guard's, but for paths and digests, which are filled in here
    stop_timeout_s: int = 60
    group: tuple[str, ...] = ()  # the instances of all ranks, where there are several
    fabric: tuple[str, ...] = ()  # the addresses of their hosts, where these are several


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """A host's parts in the order in which they are converged."""

    host: Host
    bound: Bound
    base: Part
    uv: Environment
    guard: Environment
    engine: Environment
    snapshots: tuple[Snapshot, ...]
    serving: Part
    checking: Part
    hardware: tuple[Resource, ...]  # looked at, never changed
    spanning: tuple[str, ...] = ()  # the instances that have ranks on other hosts, by their leaders
    peers: tuple[str, ...] = ()  # those hosts
    refusals: tuple[str, ...] = ()  # models that do not fit, each with its reason
    warnings: tuple[str, ...] = ()  # what is served as declared, and is worth a second look

    @property
    def shelves(self) -> tuple[Shelf, ...]:
        """Where environments stand, each with the one in use."""
        return tuple(_shelf(one) for one in (self.uv, self.guard, self.engine))

    @property
    def contents(self) -> dict[str, str]:
        """The text of every file that is declared by its text, by path."""
        parts = (self.base, self.serving, self.checking)
        return {path: text for part in parts for path, text in part.contents.items()}

    @property
    def manifest(self) -> Manifest:
        """All resources: what drift is measured against and what the stamp keeps."""
        made: list[Environment | Snapshot] = [self.uv, self.guard, self.engine, *self.snapshots]
        return Manifest(
            (
                *self.base.resources,
                *(one.resource() for one in made),
                *self.shelves,
                *self.serving.resources,
                *self.checking.resources,
                *self.hardware,
            )
        )


def _shelf(one: Environment) -> Shelf:
    path, _, name = one.path.rpartition("/")
    return Shelf(path=path, current=(name,))


def declare(host: Host, bound: Bound, models: Sequence[Model], sources: Sources) -> Declaration:
    """Say what a host is to have, from what is declared of it and what preflight bound."""
    python = Interpreter(
        path=bound.python, version=bound.python_version, architecture=bound.architecture
    )
    uv = environment(layout.TOOLS, sources.locks["uv"], python, label="uv-")
    guard = environment(layout.GUARDS, sources.locks["guard"], python, source=sources.guard)
    engine = environment(layout.RUNTIMES, sources.locks[bound.flavour], python)
    declaration = Declaration(
        host=host,
        bound=bound,
        base=base.part(sources.render, gpu=bound.flavour != "cpu"),
        uv=uv,
        guard=guard,
        engine=engine,
        snapshots=tuple({model.snapshot.path: model.snapshot for model in models}.values()),
        serving=serving.part(
            sources.render,
            [_served(model, engine) for model in models],
            guard=guard.path,
            gpu_uuids=tuple(gpu.uuid for gpu in bound.gpus),
            mounts=host.mounts,
            fabric=host.fabric,
        ),
        checking=checking.part(
            sources.render,
            sources.checker,
            [Tolerance(**one.model_dump()) for one in host.tolerated],
            python=bound.python,
        ),
        hardware=_hardware(bound),
        spanning=tuple(sorted({model.group[0] for model in models if model.fabric})),
    )
    return replace(declaration, base=_ours_alone(declaration))


def _ours_alone(declaration: Declaration) -> Part:
    """Give the base part with what is in our own directories: all that is declared, no more."""
    paths = [one.path for one in declaration.manifest if isinstance(one, Entry)]
    return replace(
        declaration.base,
        resources=tuple(
            replace(one, entries=tuple(sorted(_children(one.path, paths))))
            if isinstance(one, Directory) and one.path in {layout.OPT, layout.ETC}
            else one
            for one in declaration.base.resources
        ),
    )


def _children(folder: str, paths: Iterable[str]) -> set[str]:
    inside = (path.removeprefix(f"{folder}/") for path in paths if path.startswith(f"{folder}/"))
    return {path.partition("/")[0] for path in inside}


def _served(model: Model, engine: Environment) -> Served:
    run = f"{layout.RUN}/{model.instance}"
    return Served(
        instance=model.instance,
        settings={
            **model.settings,
            "instance": model.instance,
            "runtime": engine.path,
            "model": model.snapshot.path,
            "socket": f"{run}/api.sock",
            "run_dir": run,
            "cache_dir": f"{layout.CACHE}/{model.instance}",
            "stop_timeout_s": model.stop_timeout_s,
        },
        weights=model.snapshot.files,
        stop_timeout_s=model.stop_timeout_s,
        group=model.group,
        fabric=model.fabric,
    )


def _hardware(bound: Bound) -> tuple[Resource, ...]:
    if bound.driver is None:
        return ()
    gpus = (
        Device(
            uuid=gpu.uuid,
            name=gpu.name,
            pci=gpu.pci,
            memory_mib=gpu.memory_bytes // 2**20,
            # Preflight refuses a card in any other mode.
            compute_mode="Default",
            mig="Disabled",
            ecc=gpu.ecc,
            power_limit_watts=gpu.power_limit_watts,
        )
        for gpu in bound.gpus
    )
    uuids = tuple(sorted(gpu.uuid for gpu in bound.gpus))
    return (Driver(module=bound.driver, library=bound.driver), DeviceSet(uuids=uuids), *gpus)
