"""The models of one host onto its devices: deterministic, and stable when a model is added."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from planner.declared import Host, Model
from planner.fitting import Attempt, Devices, by_kind, candidate, each, on_each_host
from planner.plan import Member, Placement, Refusal, Space
from planner.refusing import Refusing, untraced
from planner.traced import SIZES, Rank, Traced


class Packing:
    """The plan of one host, in what is ``free`` of its ``spaces``."""

    def __init__(
        self,
        host: Host,
        spaces: tuple[Space, ...],
        free: Sequence[int],
        traces: Mapping[str, Traced | str | None],
        devices: Devices,
    ) -> None:
        self.host = host
        self.spaces = spaces
        self.free = tuple(free)
        self.traces = traces
        self.devices = devices
        self.refusing = Refusing(host=host.name, spaces=spaces, devices=devices)
        self.most, _ = on_each_host(spaces)  # devices of one kind

    def plan(self) -> tuple[list[Placement], list[Refusal]]:
        """Placements and refusals, in the order of the inventory."""
        pinned = [model for model in self.host.models if model.gpus is not None]
        others = [model for model in self.host.models if model.gpus is None]
        # In the order of the inventory, models stay where they are when another is added, if need
        # be at frugal settings; only where that does not fit are they moved, the largest first.
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
        free = [*self.free]
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
                tight = free
                if placement is None and not frugal:
                    # Where it lies, what was placed can do with less.
                    tight = [*free]
                    lower = self._refitted(placed, tight, frugal=True)
                    placement = self._one(model, traced, replica, tight, frugal=True)
                    if placement is not None:
                        placed, free, frugal = lower, tight, True
                if placement is None:
                    tried = [*self._attempts(model, traced, tight)]
                    size = self._sizes(model)[-1]
                    refused.append(
                        self.refusing.refusal(model, traced, size, tried, replica=replica)
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
        for attempt in self._attempts(model, traced, free):
            fit = attempt.fit(attempt.able.tried(frugal=frugal), self.devices)
            if fit is None:
                continue
            for space in attempt.spaces:
                free[space.gpu or 0] -= fit.need.total
            return Placement(
                host=self.host.name,
                model=model.slug,
                replica=replica,
                members=tuple(Member(host=space.host, gpu=space.gpu) for space in attempt.spaces),
                engine="mlx",
                settings=fit.settings,
                need=fit.need,
            )
        return None

    def _attempts(self, model: Model, traced: Traced, free: Sequence[int]) -> Iterator[Attempt]:
        """What can be tried for a model, over the fewest devices first."""
        by_room = sorted(range(len(free)), key=lambda index: (-free[index], index))
        kinds = by_kind(by_room, lambda index: self.spaces[index].name)
        for size in self._sizes(model):
            if (able := candidate(model, traced, size)) is None:
                continue
            for chosen in self._choices(model, size, kinds, free):
                spaces = tuple(self.spaces[index] for index in chosen)
                yield Attempt(able=able, spaces=spaces, room=each(free, chosen))

    def _sizes(self, model: Model) -> tuple[int, ...]:
        """Over how many devices a model may go, fewest first."""
        if model.gpus is not None:
            return (len(model.gpus),)
        if model.ranks is not None:
            return (model.ranks,)
        return tuple(size for size in SIZES if size <= self.most)

    def _choices(
        self, model: Model, size: int, kinds: Sequence[list[int]], free: Sequence[int]
    ) -> Sequence[tuple[int, ...]]:
        """The devices of each kind with most room; the kind first of which a rank has most."""
        if model.gpus is not None:
            return [model.gpus] if max(model.gpus, default=0) < len(free) else []
        if self.spaces[0].gpu is None:
            return [(0,) * size]  # a CPU host's ranks are processes beside each other
        enough = [alike[:size] for alike in kinds if len(alike) >= size]
        return [tuple(sorted(it)) for it in sorted(enough, key=lambda it: -each(free, it))]

    def _raised(self, placed: Sequence[Placement]) -> list[Placement]:
        """The same placements, with more generous settings as far as there is room."""
        free = [*self.free]
        for placement in placed:
            for member in placement.members:
                free[member.gpu or 0] -= placement.need.total
        return self._refitted(placed, free, frugal=False)

    def _refitted(
        self, placed: Sequence[Placement], free: list[int], *, frugal: bool
    ) -> list[Placement]:
        """Each where it is, at frugal settings or at the best there is room for; from ``free``."""
        models = {model.slug: model for model in self.host.models}
        made: list[Placement] = []
        for placement in placed:
            chosen = [member.gpu or 0 for member in placement.members]
            traced = self.traces[placement.model]
            assert isinstance(traced, Traced), "it was placed"  # noqa: S101
            able = candidate(models[placement.model], traced, placement.ranks)
            assert able is not None, "it was placed"  # noqa: S101
            spaces = tuple(self.spaces[index] for index in chosen)
            room = each(free, chosen) + placement.need.total
            attempt = Attempt(able=able, spaces=spaces, room=room)
            rungs = able.rungs()
            fit = attempt.fit(rungs[-1:] if frugal else rungs, self.devices)
            if fit is None or (frugal and fit.need.total > placement.need.total):
                made.append(placement)
                continue
            for index in chosen:
                free[index] -= fit.need.total - placement.need.total
            made.append(replace(placement, settings=fit.settings, need=fit.need))
        return made
