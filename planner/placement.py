"""Models onto the devices of each host: deterministic, and stable when a model is added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Protocol

from planner.declared import Gpu, Host, Model
from planner.demand import CPU, CUDA, Device, Need, Settings, ladder, need
from planner.gpus import BY_NAME
from planner.plan import Member, Placement, Plan, Refusal, Space
from planner.record import Record
from planner.traced import Rank, Traced

GIB = 2**30
# Versions of the fused kernel: head sizes up to 128 in eights, 16-bit types, from Ampere on
# (mlx/backend/cuda/scaled_dot_product_attention.cpp, as of 2026-08).
FUSED_HEAD = 128
FUSED_CAPABILITY = 8.0
# The rung of the ladder that packing starts from: two kept sequences, the full step.
COMFORTABLE = 2


class Lock(Protocol):
    """What the plan asks of ``models.lock``."""

    def traced(self, model: Model, *, mlx_lm: str) -> Traced | str | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Detected(Record):
    """What preflight found on a host; the inventory's word goes first."""

    gpus: tuple[Gpu, ...] = ()
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Settings under which a model fits a device, and what it then takes."""

    settings: Settings
    need: Need


def place(
    hosts: Sequence[Host],
    lock: Lock,
    *,
    mlx_lm: str | None = None,
    detected: Mapping[str, Detected] | None = None,
    cpu: Device = CPU,
    cuda: Device = CUDA,
) -> Plan:
    """A plan for all ``hosts``: every model of each is placed or refused.

    ``mlx_lm`` is the version that the hosts get (None: the one installed here, to which the
    runtimes are locked). A host whose devices are neither declared nor
    in ``detected`` is undecided, unless it is of flavour ``cpu``.
    """
    mlx_lm = mlx_lm or version("mlx-lm")
    spaces: list[Space] = []
    placements: list[Placement] = []
    refusals: list[Refusal] = []
    undecided: list[str] = []
    for host in hosts:
        found = (detected or {}).get(host.name)
        own = _spaces(host, found, cpu, cuda)
        if own is None:
            undecided.append(host.name)
            continue
        spaces += own
        placed, refused = _Host(host, own, lock, mlx_lm, cpu, cuda).plan()
        placements += placed
        refusals += refused
    return Plan(
        spaces=tuple(spaces),
        placements=tuple(placements),
        refusals=tuple(refusals),
        undecided=tuple(undecided),
    )


def _spaces(
    host: Host, found: Detected | None, cpu: Device, cuda: Device
) -> tuple[Space, ...] | None:
    if host.flavour == "cpu":
        memory = host.memory_bytes or (found.memory_bytes if found else None)
        if memory is None:
            return None
        usable = int(memory * cpu.usable_share)
        return (
            Space(
                host=host.name,
                gpu=None,
                name="memory",
                compute_capability=None,
                total=memory,
                usable=usable,
            ),
        )
    gpus = _gpus(host, found)
    if gpus is None:
        return None
    return tuple(
        Space(
            host=host.name,
            gpu=index,
            name=gpu.name,
            compute_capability=gpu.compute_capability,
            total=gpu.memory_bytes,
            usable=max(
                0, int(gpu.memory_bytes * cuda.usable_share) - host.shared_gpus.get(index, 0)
            ),
        )
        for index, gpu in enumerate(gpus)
    )


def _gpus(host: Host, found: Detected | None) -> tuple[Gpu, ...] | None:
    """A host's GPUs: as declared, by the table where only named, else as detected."""
    seen = found.gpus if found else ()
    if host.gpus is None:
        return seen or None
    gpus: list[Gpu] = []
    for index, declared in enumerate(host.gpus):
        if isinstance(declared, Gpu):
            gpus.append(declared)
        elif index < len(seen):
            gpus.append(seen[index])
        elif declared in BY_NAME:
            gpus.append(BY_NAME[declared].gpu)
        else:
            return None
    return tuple(gpus)


class _Host:
    """The plan of one host."""

    def __init__(
        self,
        host: Host,
        spaces: tuple[Space, ...],
        lock: Lock,
        mlx_lm: str,
        cpu: Device,
        cuda: Device,
    ) -> None:
        self.host = host
        self.spaces = spaces
        self.lock = lock
        self.mlx_lm = mlx_lm
        self.cpu = cpu
        self.cuda = cuda

    def plan(self) -> tuple[list[Placement], list[Refusal]]:
        pinned = [model for model in self.host.models if model.gpus is not None]
        others = [model for model in self.host.models if model.gpus is None]
        # The order of the inventory keeps models where they are; only where it does not fit is
        # everything moved, the largest first.
        largest = sorted(others, key=lambda model: -self._least(model))
        best: tuple[list[Placement], list[Refusal]] | None = None
        for order in (others, largest):
            for frugal in (False, True):
                placed, refused = self._in_order([*pinned, *order], frugal=frugal)
                if best is None or len(refused) < len(best[1]):
                    best = placed, refused
                if not refused:
                    return self._raised(placed), refused
        assert best is not None, "tried at least once"  # noqa: S101
        return self._raised(best[0]), best[1]

    def _raised(self, placed: list[Placement]) -> list[Placement]:
        """The same placements, with more generous settings as far as there is room."""
        free = [space.usable for space in self.spaces]
        index = {space.gpu: at for at, space in enumerate(self.spaces)}
        where = [[index[member.gpu] for member in p.members] for p in placed]
        for placement, chosen in zip(placed, where, strict=True):
            for at in chosen:
                free[at] -= placement.need.total
        models = {model.slug: model for model in self.host.models}
        raised: list[Placement] = []
        for placement, chosen in zip(placed, where, strict=True):
            room = min(free[at] for at in chosen) + placement.need.total
            model = models[placement.model]
            traced = self.lock.traced(model, mlx_lm=self.mlx_lm)
            assert isinstance(traced, Traced), "it was placed"  # noqa: S101
            rank = traced.rank(len(chosen))
            assert isinstance(rank, Rank), "it was placed"  # noqa: S101
            fit = self.fit(model, traced, rank, len(chosen), room, self.spaces[chosen[0]])
            assert fit is not None, "it fitted with less"  # noqa: S101
            for at in chosen:
                free[at] -= fit.need.total - placement.need.total
            raised.append(replace(placement, settings=fit.settings, need=fit.need))
        return raised

    def _least(self, model: Model) -> int:
        traced = self.lock.traced(model, mlx_lm=self.mlx_lm)
        rank = traced.rank(1) if isinstance(traced, Traced) else None
        return rank.weights if isinstance(rank, Rank) else 0

    def _in_order(
        self, models: Sequence[Model], *, frugal: bool
    ) -> tuple[list[Placement], list[Refusal]]:
        free = [space.usable for space in self.spaces]
        placed: list[Placement] = []
        refused: list[Refusal] = []
        filling: list[tuple[Model, Traced, int]] = []
        for model in models:
            traced = self.lock.traced(model, mlx_lm=self.mlx_lm)
            if not isinstance(traced, Traced):
                refused.append(self._untraced(model, traced))
                continue
            wanted = 1 if model.replicas == "fill" else model.replicas
            for replica in range(wanted):
                placement = self._one(model, traced, replica, free, frugal=frugal)
                if placement is None:
                    refused.append(self._refusal(model, traced, replica, free))
                    break
                placed.append(placement)
            else:
                if model.replicas == "fill":
                    filling.append((model, traced, wanted))
        for model, traced, first in filling:
            replica = first
            while placement := self._one(model, traced, replica, free, frugal=frugal):
                placed.append(placement)
                replica += 1
        order = {model.slug: index for index, model in enumerate(self.host.models)}
        placed.sort(key=lambda p: (order[p.model], p.replica))
        refused.sort(key=lambda r: order[r.model])
        return placed, refused

    def _one(
        self, model: Model, traced: Traced, replica: int, free: list[int], *, frugal: bool
    ) -> Placement | None:
        """Place one replica and take its bytes from ``free``, or leave ``free`` alone."""
        for size in self._sizes(model):
            rank = traced.rank(size)
            if not isinstance(rank, Rank):
                continue
            chosen = self._devices(model, size, free)
            if chosen is None:
                continue
            room = min(free[index] for index in chosen)
            rungs = ladder(model.concurrency, batchable=traced.batchable)
            least = rungs[-1:] if frugal else rungs[COMFORTABLE:]
            fit = self.fit(model, traced, rank, size, room, self.spaces[chosen[0]], least)
            if fit is None:
                continue
            for index in chosen:
                free[index] -= fit.need.total
            members = tuple(
                Member(host=self.host.name, gpu=self.spaces[index].gpu) for index in chosen
            )
            return Placement(
                host=self.host.name,
                model=model.slug,
                replica=replica,
                members=members,
                engine="mlx",
                settings=fit.settings,
                need=fit.need,
            )
        return None

    def _sizes(self, model: Model) -> tuple[int, ...]:
        if model.gpus is not None:
            return (len(model.gpus),)
        return tuple(size for size in (1, 2, 4, 8) if size <= len(self.spaces))

    def _devices(self, model: Model, size: int, free: Sequence[int]) -> tuple[int, ...] | None:
        """The devices with most room; those of one kind where there are several ranks."""
        if model.gpus is not None:
            return model.gpus if max(model.gpus, default=0) < len(free) else None
        by_room = sorted(range(len(free)), key=lambda index: (-free[index], index))
        for first in by_room:
            alike = [i for i in by_room if self.spaces[i].name == self.spaces[first].name]
            if len(alike) >= size:
                return tuple(sorted(alike[:size]))
        return None

    def fit(
        self,
        model: Model,
        traced: Traced,
        rank: Rank,
        size: int,
        room: int,
        space: Space,
        rungs: Sequence[Settings] = (),
    ) -> Fit | None:
        """The first settings under which one rank takes no more than ``room`` bytes."""
        for settings in rungs or ladder(model.concurrency, batchable=traced.batchable):
            needed = self.needed(model, traced, rank, size, settings, space)
            if needed.total <= room:
                limited = replace(
                    settings,
                    memory_limit_bytes=needed.mlx,
                    cache_limit_bytes=needed.work,
                )
                return Fit(settings=limited, need=needed)
        return None

    def needed(
        self,
        model: Model,
        traced: Traced,
        rank: Rank,
        size: int,
        settings: Settings,
        space: Space,
        context: int | None = None,
    ) -> Need:
        device = self.cpu if space.gpu is None else self.cuda
        return need(
            traced,
            rank,
            settings,
            context or model.context,
            device,
            ranks=size,
            fused=_fused(traced, space),
        )

    def _untraced(self, model: Model, reason: str | None) -> Refusal:
        return Refusal(
            host=self.host.name,
            model=model.slug,
            needed=None,
            available=max((space.usable for space in self.spaces), default=0),
            reason=f"mlx-lm {self.mlx_lm} cannot load it: {reason}"
            if reason
            else f"not in models.lock for mlx-lm {self.mlx_lm}",
        )

    def _refusal(self, model: Model, traced: Traced, replica: int, free: Sequence[int]) -> Refusal:
        """The numbers on both sides, and what would make it fit."""
        size = self._sizes(model)[-1]
        rank = traced.rank(size)
        whole = traced.rank(1)
        if not isinstance(rank, Rank):
            size, rank = 1, whole
        if not isinstance(rank, Rank):
            return self._untraced(model, str(rank))
        frugal = ladder(model.concurrency, batchable=traced.batchable)[-1]
        space = max(self.spaces, key=lambda s: s.usable)
        needed = self.needed(model, traced, rank, size, frugal, space)
        room = max(free)
        which = f"replica {replica}: " if replica else ""
        over = f" on each of {size} GPUs" if size > 1 else ""
        reason = (
            f"{which}needs {_gib(needed.total)}{over} at the least, "
            f"{_gib(room)} of {_gib(space.total)} are free on {space.name}"
        )
        return Refusal(
            host=self.host.name,
            model=model.slug,
            needed=needed.total,
            available=room,
            reason=reason,
            ways_out=tuple(self._ways_out(model, traced, rank, size, frugal, space, room)),
        )

    def _ways_out(
        self,
        model: Model,
        traced: Traced,
        rank: Rank,
        size: int,
        settings: Settings,
        space: Space,
        room: int,
    ) -> list[str]:
        def fits(context: int) -> bool:
            needed = self.needed(model, traced, rank, size, settings, space, context)
            return needed.total <= room

        ways: list[str] = []
        low, high = 0, model.context
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        if low >= 256:  # noqa: PLR2004 -- less is no context to serve
            ways.append(f"context: {low} tokens fit at concurrency {model.concurrency}")
        return ways


def _fused(traced: Traced, space: Space) -> bool:
    """Whether the GPU has one kernel for this model's attention."""
    return (
        space.compute_capability is not None
        and float(space.compute_capability) >= FUSED_CAPABILITY
        and traced.dtype in {"bfloat16", "float16"}
        and bool(traced.head_dims)
        and all(size <= FUSED_HEAD and size % 8 == 0 for size in traced.head_dims)
    )


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
