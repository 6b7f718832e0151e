"""Models onto the devices of each host: deterministic, and stable when a model is added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from planner.declared import Gpu, Host, Model
from planner.fitting import COMFORTABLE, Devices, Lock, candidate, each
from planner.fleet import wide
from planner.gpus import BY_NAME
from planner.plan import Member, Placement, Plan, Refusal, Space
from planner.record import Record
from planner.refusing import Refusing, untraced
from planner.spans import Spans
from planner.traced import SIZES, Rank, Traced


@dataclass(frozen=True, slots=True, kw_only=True)
class Detected(Record):
    """What preflight found on a host; what the inventory declares in full goes first."""

    gpus: tuple[Gpu, ...] = ()
    memory_bytes: int | None = None


def place(
    hosts: Sequence[Host],
    lock: Lock,
    *,
    mlx_lm: str | None = None,
    detected: Mapping[str, Detected] | None = None,
    devices: Devices | None = None,
) -> Plan:
    """A plan for all ``hosts``: every model of each is placed or refused.

    ``mlx_lm`` is the version that the hosts get (None: the one installed here, to which the
    runtimes are locked). A host whose devices are neither declared nor in ``detected`` is
    undecided. ``devices`` are the figures that only a device can give, where no host's own
    ``measured`` says otherwise.
    """
    devices = devices or Devices()
    spaces: dict[str, tuple[Space, ...]] = {}
    for host in hosts:
        # Every host of a span plans all of it, and sees no devices but its own.
        found = None if wide(host) else (detected or {}).get(host.name)
        if own := _spaces(host, found, devices.on(host)):
            spaces[host.name] = own

    def one(host: Host, own: tuple[Space, ...]) -> tuple[list[Placement], list[Refusal]]:
        traces = {model.slug: lock.traced(model, mlx_lm=mlx_lm) for model in host.models}
        return _Host(host, own, traces, devices.on(host)).plan()

    def fits_alone(host: Host, model: Model, left: tuple[Space, ...]) -> bool:
        _, refused = one(host.model_copy(update={"models": (model,)}), left)
        return not refused

    spans = Spans(
        hosts=hosts, spaces=spaces, lock=lock, devices=devices, mlx_lm=mlx_lm, fits_alone=fits_alone
    )
    placements, refusals = [*spans.placements], [*spans.refusals]
    for host in hosts:
        if host.name in spaces:
            placed, refused = one(*spans.rest(host))
            placements += placed
            refusals += refused
    return Plan(
        spaces=tuple(space for own in spaces.values() for space in own),
        placements=tuple(placements),
        refusals=tuple(refusals),
        undecided=tuple(host.name for host in hosts if host.name not in spaces),
    )


def _spaces(host: Host, found: Detected | None, devices: Devices) -> tuple[Space, ...] | None:
    """What the host can be placed on, None where nobody knows yet."""
    if host.flavour == "cpu":
        memory = host.memory_bytes or (found.memory_bytes if found else None)
        if memory is None:
            return None
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
                0,
                int(gpu.memory_bytes * devices.cuda.usable_share) - host.shared_gpus.get(index, 0),
            ),
        )
        for index, gpu in enumerate(gpus)
    )


def _gpus(host: Host, found: Detected | None) -> tuple[Gpu, ...] | None:
    """A host's GPUs: as declared; where only named, as detected or by the table."""
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
        traces: Mapping[str, Traced | str | None],
        devices: Devices,
    ) -> None:
        self.host = host
        self.spaces = spaces
        self.traces = traces
        self.devices = devices
        self.refusing = Refusing(host=host.name, spaces=spaces, devices=devices)

    def plan(self) -> tuple[list[Placement], list[Refusal]]:
        """Placements and refusals, in the order of the inventory."""
        pinned = [model for model in self.host.models if model.gpus is not None]
        others = [model for model in self.host.models if model.gpus is None]
        # In the order of the inventory, models stay where they are when another is added; only
        # where that does not fit are they moved, the largest first.
        largest = sorted(others, key=lambda model: -self._weights(model))
        tries: list[tuple[list[Placement], list[Refusal]]] = []
        for order in (others, largest):
            for frugal in (False, True):
                placed, refused = self._in_order([*pinned, *order], frugal=frugal)
                if not refused:
                    return self._raised(placed), refused
                tries.append((placed, refused))
        placed, refused = min(tries, key=lambda it: len(it[1]))
        return self._raised(placed), refused

    def _weights(self, model: Model) -> int:
        traced = self.traces[model.slug]
        rank = traced.rank(1) if isinstance(traced, Traced) else None
        return rank.weights if isinstance(rank, Rank) else 0

    def _in_order(
        self, models: Sequence[Model], *, frugal: bool
    ) -> tuple[list[Placement], list[Refusal]]:
        """Place ``models`` one after the other; those that fill what is left come last."""
        free = [space.usable for space in self.spaces]
        placed: list[Placement] = []
        refused: list[Refusal] = []
        filling: list[tuple[Model, Traced]] = []
        for model in models:
            traced = self.traces[model.slug]
            if not isinstance(traced, Traced):
                refused.append(untraced(self.host.name, model, traced, max(free, default=0)))
                continue
            for replica in range(1 if model.replicas == "fill" else model.replicas):
                placement = self._one(model, traced, replica, free, frugal=frugal)
                if placement is None:
                    sizes = self._sizes(model)
                    room = self._room(model, traced, free)
                    refused.append(
                        self.refusing.refusal(model, traced, sizes, room, replica=replica)
                    )
                    break
                placed.append(placement)
            else:
                if model.replicas == "fill":
                    filling.append((model, traced))
        for model, traced in filling:
            replica = 1
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
            able = candidate(model, traced, size)
            chosen = self._chosen(model, size, free)
            if able is None or chosen is None:
                continue
            rungs = able.rungs()
            room = each(free, chosen)
            fit = able.fit(
                rungs[-1:] if frugal else rungs[COMFORTABLE:],
                room,
                self.spaces[chosen[0]],
                self.devices,
            )
            if fit is None:
                continue
            for index in chosen:
                free[index] -= fit.need.total
            return Placement(
                host=self.host.name,
                model=model.slug,
                replica=replica,
                members=tuple(
                    Member(host=self.host.name, gpu=self.spaces[index].gpu) for index in chosen
                ),
                engine="mlx",
                settings=fit.settings,
                need=fit.need,
            )
        return None

    def _sizes(self, model: Model) -> tuple[int, ...]:
        """Over how many devices a model may go, fewest first."""
        if model.gpus is not None:
            return (len(model.gpus),)
        if model.ranks is not None:
            return (model.ranks,)
        return tuple(size for size in SIZES if size <= len(self.spaces)) or (1,)

    def _chosen(self, model: Model, size: int, free: Sequence[int]) -> tuple[int, ...] | None:
        """The devices with most room; those of one kind where there are several ranks."""
        if model.gpus is not None:
            return model.gpus if max(model.gpus, default=0) < len(free) else None
        if self.spaces[0].gpu is None:
            return (0,) * size  # a CPU host's ranks are processes beside each other
        by_room = sorted(range(len(free)), key=lambda index: (-free[index], index))
        for first in by_room:
            alike = [i for i in by_room if self.spaces[i].name == self.spaces[first].name]
            if len(alike) >= size:
                return tuple(sorted(alike[:size]))
        return None

    def _room(self, model: Model, traced: Traced, free: Sequence[int]) -> int:
        """Bytes free on each device of the widest that the model could have."""
        sizes = [s for s in self._sizes(model) if isinstance(traced.rank(s), Rank)]
        chosen = self._chosen(model, sizes[-1], free) if sizes else None
        if chosen is None:
            return max(free, default=0)
        return each(free, chosen)

    def _raised(self, placed: list[Placement]) -> list[Placement]:
        """The same placements, with more generous settings as far as there is room."""
        at = {space.gpu: index for index, space in enumerate(self.spaces)}
        free = [space.usable for space in self.spaces]
        for placement in placed:
            for member in placement.members:
                free[at[member.gpu]] -= placement.need.total
        models = {model.slug: model for model in self.host.models}
        raised: list[Placement] = []
        for placement in placed:
            chosen = [at[member.gpu] for member in placement.members]
            traced = self.traces[placement.model]
            assert isinstance(traced, Traced), "it was placed"  # noqa: S101
            able = candidate(models[placement.model], traced, placement.ranks)
            assert able is not None, "it was placed"  # noqa: S101
            room = each(free, chosen)
            room += placement.need.total
            fit = able.fit(able.rungs(), room, self.spaces[chosen[0]], self.devices)
            assert fit is not None, "it fitted with less"  # noqa: S101
            for index in chosen:
                free[index] -= fit.need.total - placement.need.total
            raised.append(replace(placement, settings=fit.settings, need=fit.need))
        return raised
