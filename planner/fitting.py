"""Whether a model fits a device: what it needs there, under which settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from planner.declared import Host, Model
from planner.demand import CPU, CUDA, Device, Need, Settings, ladder, need
from planner.plan import Space
from planner.record import Record
from planner.traced import Processor, Rank, Traced, in_steps

T = TypeVar("T")
FUSED_CAPABILITY = 8.0  # mlx/backend/cuda/scaled_dot_product_attention.cpp, as of 2026-08
# The rung of the ladder that packing starts from: two kept sequences, the full step.
COMFORTABLE = 2


class Lock(Protocol):
    """What a plan asks of ``models.lock``."""

    def traced(
        self, model: Model, processor: Processor, *, mlx_lm: str | None = None
    ) -> Traced | str | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Devices(Record):
    """What MLX is taken to do on each kind of device; a measurement may say otherwise."""

    cpu: Device = CPU
    cuda: Device = CUDA

    def of(self, space: Space) -> Device:
        if space.compute_capability is None:
            return self.cpu
        return self.cuda.on(space.compute_capability)

    def on(self, host: Host) -> Devices:
        """Those of ``host``, with what was measured there."""
        if host.measured is None:
            return self
        figures = host.measured.model_dump(exclude_none=True)
        if host.flavour == "cpu":
            return replace(self, cpu=self.cpu.measured(figures))
        return replace(self, cuda=self.cuda.measured(figures))


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit(Record):
    """Settings under which a model fits a device, and what it then takes."""

    settings: Settings
    need: Need


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A model as one of ``size`` ranks."""

    model: Model
    traced: Traced
    rank: Rank
    size: int

    def rungs(self) -> tuple[Settings, ...]:
        """Settings from generous to frugal."""
        concurrency = self.model.concurrency
        return self.traced.once(("ladder", concurrency), lambda: ladder(concurrency, self.traced))

    def tried(self, *, frugal: bool) -> tuple[Settings, ...]:
        """Those that packing tries: it is told more when all have their place."""
        return self.rungs()[-1:] if frugal else self.rungs()[COMFORTABLE:]

    def need(
        self,
        settings: Settings,
        spaces: Sequence[Space],
        devices: Devices,
        *,
        context: int | None = None,
    ) -> Need:
        """What each rank takes: as much as the one on the worst of ``spaces``.

        All are told the same limits of memory, so that each may come to hold as much.
        """
        kinds = {space.compute_capability: space for space in spaces}
        context = context or self.model.context

        def worst() -> Need:
            needs = (
                need(
                    self.traced,
                    self.rank,
                    settings,
                    context,
                    devices.of(space),
                    ranks=self.size,
                    fused=attention(self.traced, space)[0],
                )
                for space in kinds.values()
            )
            return max(needs, key=lambda it: it.total)

        asked = ("need", self.rank, self.size, settings, context, tuple(kinds), devices)
        return self.traced.once(asked, worst)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A candidate on the devices chosen for it, one for each rank, and what is free there."""

    able: Candidate
    spaces: tuple[Space, ...]
    room: int  # bytes that each rank can have

    def fit(self, rungs: Sequence[Settings], devices: Devices) -> Fit | None:
        """The first of ``rungs`` under which a rank takes no more than there is room for."""
        for settings in rungs:
            needs = self.able.need(settings, self.spaces, devices)
            if needs.total <= self.room:
                limits = replace(
                    settings, memory_limit_bytes=needs.mlx, cache_limit_bytes=needs.work
                )
                return Fit(settings=limits, need=needs)
        return None

    def least(self, devices: Devices) -> Need:
        """What a rank takes under the most frugal settings."""
        return self.able.need(self.able.rungs()[-1], self.spaces, devices)


def candidate(model: Model, traced: Traced, size: int) -> Candidate | None:
    """``model`` over ``size`` devices, where it can be split so."""
    rank = traced.rank(size)
    if not isinstance(rank, Rank):
        return None
    return Candidate(model=model, traced=traced, rank=rank, size=size)


def older(compute_capability: str) -> bool:
    """Whether such a GPU has no kernel for attention, whatever the heads."""
    return float(compute_capability) < FUSED_CAPABILITY


def attention(traced: Traced, space: Space) -> tuple[bool, str]:
    """Whether the device has one kernel for this model's attention, and why or why not."""
    if space.compute_capability is None:
        return False, "in steps: the CPU has no kernel for it"
    if older(space.compute_capability):
        return False, f"in steps: compute capability {space.compute_capability} is below 8.0"
    if why := in_steps(traced.dtype, traced.head_dims):
        return False, f"in steps: {why}"
    sizes = ", ".join(map(str, traced.head_dims))
    return True, f"fused: heads of {sizes} in {traced.dtype}"


def by_kind(devices: Iterable[T], name: Callable[[T], str]) -> list[list[T]]:
    """Those of one name together, in the order of ``devices``."""
    kinds: dict[str, list[T]] = {}
    for one in devices:
        kinds.setdefault(name(one), []).append(one)
    return [*kinds.values()]


def on_each_host(spaces: Sequence[Space]) -> tuple[int, int]:
    """The most devices of one kind that each of the hosts has, and how many hosts there are."""
    hosts = {space.host for space in spaces}
    kinds = Counter((space.name, space.host) for space in spaces)
    names = {space.name for space in spaces}
    return max(min(kinds[name, host] for host in hosts) for name in names), len(hosts)


def each(free: Sequence[int], chosen: Sequence[int]) -> int:
    """Bytes that each rank can have of the devices chosen, where a CPU host's share its memory."""
    return min(free[index] // chosen.count(index) for index in chosen)
