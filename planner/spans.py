"""Models over several hosts: which hosts serve one together, and on which of their devices."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from planner.declared import Host, Model
from planner.fitting import Attempt, Devices, Lock, candidate, each
from planner.fleet import spans
from planner.plan import Member, Placement, Refusal, Space
from planner.refusing import Refusing, impossible, untraced
from planner.traced import SIZES, Processor, Traced


@dataclass(kw_only=True)
class Spans:
    """The part of a plan that no host can make alone; made before each host's own.

    ``spaces`` are those of each host that is decided. ``fits_alone`` tells whether a host could
    serve a model in what it is given: where each host of a span can, each does, but of what is
    ``together``, since a host's own plan had no place for it.
    """

    hosts: Sequence[Host]
    spaces: Mapping[str, tuple[Space, ...]]
    unable: Mapping[str, str]  # hosts that MLX cannot run on, and why
    lock: Lock
    devices: Devices
    on: Mapping[str, Processor]  # what each host's models are traced for
    mlx_lm: str | None
    fits_alone: Callable[[Host, Model, Sequence[int]], bool]
    together: frozenset[tuple[str, str]] = frozenset()  # host, slug
    frugal: bool = False  # told the most frugal settings, until all others are placed
    placements: list[Placement] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    own: set[tuple[str, str]] = field(default_factory=set)  # host, slug: left to the host's plan
    _free: dict[str, list[int]] = field(default_factory=dict)  # of each host's devices
    _made: dict[tuple[str, str], tuple[Attempt, Devices]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Make it."""
        self._free = {name: [one.usable for one in own] for name, own in self.spaces.items()}
        for model, span in spans(self.hosts):
            if all(host.name in self.spaces for host in span):
                self._serve(model, span)

    def rest(self, host: Host) -> tuple[Host, Sequence[int]]:
        """Give ``host`` with the models that it serves alone, and what is free on its devices."""
        models = tuple(
            model
            for model in host.models
            if model.hosts_spanned == 1 or (host.name, model.slug) in self.own
        )
        return host.model_copy(update={"models": models}), self._free[host.name]

    def raised(self, others: Iterable[Placement]) -> Iterator[Placement]:
        """The placements, with more generous settings as far as ``others`` leave room."""
        free = {name: [*room] for name, room in self._free.items()}
        for one in others:
            for member in one.members:
                free[member.host][member.gpu or 0] -= one.need.total
        for one in self.placements:
            attempt, devices = self._made[one.host, one.model]
            on = [(space.host, space.gpu or 0) for space in attempt.spaces]
            room = one.need.total + min(free[host][at] // on.count((host, at)) for host, at in on)
            fit = replace(attempt, room=room).fit(attempt.able.rungs(), devices)
            assert fit is not None, "it was placed"  # noqa: S101
            for host, at in on:
                free[host][at] -= fit.need.total - one.need.total
            yield replace(one, settings=fit.settings, need=fit.need)

    def _serve(self, model: Model, span: Sequence[Host]) -> None:
        """Place ``model`` over as few hosts of its span as it fits, or refuse it on all."""
        names = tuple(host.name for host in span)
        if lacking := [f"{name}: {self.unable[name]}" for name in names if name in self.unable]:
            self.refusals += [impossible(name, model, lacking[0], names) for name in names]
            return
        traced = self.lock.traced(model, self.on[span[0].name], mlx_lm=self.mlx_lm)
        if not isinstance(traced, Traced):
            for host in span:
                room = max(self._free[host.name])
                self.refusals.append(untraced(host.name, model, traced, room))
            return
        alone = (
            (host.name, model.slug) not in self.together
            and self.fits_alone(host, model, self._free[host.name])
            for host in span
        )
        if model.ranks is None and all(alone):
            self.own |= {(host.name, model.slug) for host in span}
            return
        widths = [width for width in SIZES if 1 < width <= len(span)]
        for width in widths[-1:] if model.ranks else widths:
            sets = [span[at : at + width] for at in range(0, len(span), width)]
            free = {name: [*room] for name, room in self._free.items()}
            placed = [self._over(hosts, model, traced, free) for hosts in sets]
            if None not in placed:
                self._free = free
                self.placements += [one for one in placed if one]
                return
        self.refusals += [self._refusal(span, model, traced, host) for host in span]

    def _over(
        self, span: Sequence[Host], model: Model, traced: Traced, free: dict[str, list[int]]
    ) -> Placement | None:
        """Place one instance on all hosts of ``span`` and take its bytes from ``free``."""
        for attempt in self._attempts(span, model, traced, free):
            devices = self.devices.on(span[0])
            fit = attempt.fit(attempt.able.tried(frugal=self.frugal), devices)
            if fit is None:
                continue
            self._made[span[0].name, model.slug] = attempt, devices
            for space in attempt.spaces:
                free[space.host][space.gpu or 0] -= fit.need.total
            return Placement(
                host=span[0].name,
                model=model.slug,
                replica=0,
                members=tuple(Member(host=space.host, gpu=space.gpu) for space in attempt.spaces),
                engine="mlx",
                settings=fit.settings,
                need=fit.need,
            )
        return None

    def _attempts(
        self,
        span: Sequence[Host],
        model: Model,
        traced: Traced,
        free: Mapping[str, Sequence[int]],
    ) -> Iterator[Attempt]:
        """What can be tried on all hosts of ``span``, over the fewest ranks first."""
        for ranks in self._ranks(model, span):
            if (able := candidate(model, traced, ranks)) is None:
                continue
            for chosen in self._choices(model, span, ranks // len(span), free):
                on_each = zip(span, chosen, strict=True)
                spaces = tuple(
                    self.spaces[host.name][at] for host, indices in on_each for at in indices
                )
                yield Attempt(able=able, spaces=spaces, room=self._room(span, chosen, free))

    def _ranks(self, model: Model, span: Sequence[Host]) -> tuple[int, ...]:
        """Into how many ranks it may be split over ``span``, fewest first."""
        if model.ranks is not None:
            return (model.ranks,)
        if model.gpus is not None:
            return (len(model.gpus) * len(span),)
        if self._cpu(span):
            return (len(span),)
        most = min(len(self.spaces[host.name]) for host in span)
        return tuple(n for n in SIZES if not n % len(span) and n // len(span) <= most)

    def _choices(
        self, model: Model, span: Sequence[Host], count: int, free: Mapping[str, Sequence[int]]
    ) -> Sequence[list[tuple[int, ...]]]:
        """``count`` devices of each host, all of one kind; the kind first that has most room."""
        if self._cpu(span):
            return [[(0,) * count for _ in span]]
        if model.gpus is not None:
            return [[model.gpus for _ in span]]
        enough: list[list[tuple[int, ...]]] = []
        for kind in dict.fromkeys(space.name for space in self.spaces[span[0].name]):
            chosen = [self._roomiest(host, kind, free[host.name])[:count] for host in span]
            if all(len(indices) == count for indices in chosen):
                enough.append([tuple(sorted(indices)) for indices in chosen])
        return sorted(enough, key=lambda it: -self._room(span, it, free))

    def _roomiest(self, host: Host, kind: str, free: Sequence[int]) -> tuple[int, ...]:
        alike = [at for at, space in enumerate(self.spaces[host.name]) if space.name == kind]
        return tuple(sorted(alike, key=lambda at: (-free[at], at)))

    def _refusal(self, span: Sequence[Host], model: Model, traced: Traced, host: Host) -> Refusal:
        tried = [*self._attempts(span, model, traced, self._free)]
        spaces = tuple(space for one in span for space in self.spaces[one.name])
        refusing = Refusing(host=host.name, spaces=spaces, devices=self.devices.on(host))
        return refusing.refusal(model, traced, self._ranks(model, span)[-1], tried, replica=0)

    def _cpu(self, span: Sequence[Host]) -> bool:
        return self.spaces[span[0].name][0].gpu is None

    @staticmethod
    def _room(
        span: Iterable[Host], chosen: Iterable[tuple[int, ...]], free: Mapping[str, Sequence[int]]
    ) -> int:
        """Bytes that each rank can have."""
        on_each = zip(span, chosen, strict=True)
        return min(each(free[host.name], indices) for host, indices in on_each)
