"""Models onto the devices of all hosts, and what would make those fit that do not."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TypeVar

from planner.declared import Host, Model
from planner.fitting import Devices, Lock
from planner.fleet import families, related, wide
from planner.packing import Packing
from planner.plan import Placement, Plan, Refusal, Space
from planner.refusing import impossible
from planner.spaces import Detected, found_on, processors, spaces_of, without_kernels
from planner.spans import Spans
from planner.traced import Processor, Traced
from planner.ways_out import Ways

Of = TypeVar("Of", Space, Placement, Refusal)  # of a host


def place(
    hosts: Sequence[Host],
    lock: Lock,
    *,
    mlx_lm: str | None = None,
    detected: Mapping[str, Detected] | None = None,
    devices: Devices | None = None,
    advise: Collection[str] | None = None,
) -> Plan:
    """A plan for all ``hosts``: every model of each is placed or refused.

    ``mlx_lm`` is the version that the hosts get (None: the one installed here, to which the
    runtimes are locked). A host whose devices are neither declared nor in ``detected`` is
    undecided. ``devices`` are the figures that only a device can give, where no host's own
    ``measured`` says otherwise. ``advise`` are the hosts of which somebody wants to know what would
    make fit what is refused (None: all).
    """
    seen = {host.name: found_on(host, detected or {}) for host in hosts}
    detected = {name: found for name, found in seen.items() if found}
    planning = _Planning(
        lock=lock,
        mlx_lm=mlx_lm,
        detected=detected,
        on=processors(hosts, detected),
        devices=devices or Devices(),
    )
    plan = planning.plan(hosts)
    refusals = tuple(
        planning.advised(refusal, hosts, plan)
        if advise is None or refusal.host in advise
        else refusal
        for refusal in plan.refusals
    )
    return replace(plan, refusals=refusals, warnings=tuple(planning.warnings(hosts)))


@dataclass(frozen=True, kw_only=True)
class _Planning:
    """Plans of the same inventory, as it is and as it could be."""

    lock: Lock
    mlx_lm: str | None
    detected: Mapping[str, Detected]
    on: Mapping[str, Processor]  # what each host's models are traced for
    devices: Devices
    more: Mapping[str, tuple[Space, ...]] = field(
        default_factory=dict
    )  # devices of a host's, to try
    _told: dict[object, tuple[str, ...]] = field(default_factory=dict, init=False)

    def plan(self, hosts: Sequence[Host]) -> Plan:
        """Place or refuse every model, without a word on what else would fit."""
        plans = [self._family(kin) for kin in families(hosts)]
        order = {host.name: at for at, host in enumerate(hosts)}

        def in_order(parts: Iterable[Sequence[Of]]) -> tuple[Of, ...]:
            return tuple(sorted(chain.from_iterable(parts), key=lambda one: order[one.host]))

        undecided = {name: why for plan in plans for name, why in plan.undecided.items()}
        return Plan(
            spaces=in_order(plan.spaces for plan in plans),
            placements=in_order(plan.placements for plan in plans),
            refusals=in_order(plan.refusals for plan in plans),
            undecided={name: undecided[name] for name in order if name in undecided},
        )

    def _family(self, hosts: Sequence[Host]) -> Plan:
        """Plan hosts that depend on each other, and on no others."""
        together: frozenset[tuple[str, str]] = frozenset()
        frugal = not any(map(wide, hosts))  # of what goes over hosts: nothing does
        best: Plan | None = None
        while True:
            plan, own = self._plan(hosts, together, frugal=frugal)
            if best is None or len(plan.refusals) < len(best.refusals):
                best = plan
            # What a host could serve alone, and has no room for beside others, may go over several;
            # so may what takes others' room there.
            alone = {(it.host, it.model) for it in plan.refusals} & own
            crowded = {it.host for it in plan.refusals}
            alone = alone or {(name, slug) for name, slug in own if name in crowded}
            together |= alone
            if not alone:
                if frugal or not best.refusals:
                    return best
                # What goes over several can do with less.
                together, frugal = frozenset(), True

    def _plan(
        self, hosts: Sequence[Host], together: frozenset[tuple[str, str]], *, frugal: bool
    ) -> tuple[Plan, set[tuple[str, str]]]:
        """A plan, and which models over hosts are left to a host; those ``together`` are not."""
        spaces: dict[str, tuple[Space, ...]] = {}
        undecided: dict[str, str] = {}
        for host in hosts:
            its = spaces_of(host, self.detected.get(host.name), self.devices.on(host))
            if isinstance(its, str):
                undecided[host.name] = its
            else:
                more = enumerate(self.more.get(host.name, ()), len(its))
                spaces[host.name] = (
                    *its,
                    *(replace(one, host=host.name, gpu=index) for index, one in more),
                )
        reasons = {host.name: without_kernels(host, spaces.get(host.name, ())) for host in hosts}
        spans = Spans(
            hosts=hosts,
            spaces=spaces,
            unable={name: reason for name, reason in reasons.items() if reason},
            lock=self.lock,
            devices=self.devices,
            on=self.on,
            mlx_lm=self.mlx_lm,
            together=together,
            frugal=frugal,
            fits_alone=lambda host, model, free: (
                not self._packed(
                    host.model_copy(update={"models": (model,)}), spaces[host.name], free
                )[1]
            ),
        )
        placements: list[Placement] = []
        refusals = [*spans.refusals]
        for host in hosts:
            if host.name not in spaces:
                continue
            rest, free = spans.rest(host)
            if reason := reasons[host.name]:
                refusals += [impossible(host.name, model, reason) for model in rest.models]
                continue
            placed, refused = self._packed(rest, spaces[host.name], free)
            placements += placed
            refusals += refused
        plan = Plan(
            spaces=tuple(space for its in spaces.values() for space in its),
            placements=(*spans.raised(placements), *placements),
            refusals=tuple(refusals),
            undecided=undecided,
        )
        return plan, spans.own

    def _packed(
        self, host: Host, spaces: tuple[Space, ...], free: Sequence[int]
    ) -> tuple[list[Placement], list[Refusal]]:
        traces = {model.slug: self._traced(model, host) for model in host.models}
        return Packing(host, spaces, free, traces, self.devices.on(host)).plan()

    def _traced(self, model: Model, host: Host) -> Traced | str | None:
        return self.lock.traced(model, self.on[host.name], mlx_lm=self.mlx_lm)

    def advised(self, refusal: Refusal, hosts: Sequence[Host], plan: Plan) -> Refusal:
        """``refusal`` with what would make its model fit, where there were numbers."""
        if refusal.needed is None:
            return refusal
        host = next(one for one in hosts if one.name == refusal.host)
        model = next(one for one in host.models if one.slug == refusal.model)
        traced = self._traced(model, host)
        assert isinstance(traced, Traced), "it has numbers"  # noqa: S101
        names = refusal.span or (host.name,)
        spaces = tuple(space for space in plan.spaces if space.host in names)
        kin = related(host, hosts) if wide(host) else (host,)
        # Fleets are of hosts that are alike, and a span is refused on each of its hosts.
        alike: object = (model, names)
        if len(kin) == 1:
            nameless = tuple(replace(space, host="") for space in spaces)
            alike = (model, host.models, host.flavour, host.measured, nameless)
        if alike not in self._told:
            ways = Ways(
                model=model,
                traced=traced,
                spaces=spaces,
                devices=self.devices.on(host),
                trial=_Trial(
                    planning=self,
                    hosts=kin,
                    names=names,
                    model=model,
                    before=_placed(self.plan(kin), kin),
                ),
            )
            self._told[alike] = ways.told()
        return replace(refusal, ways_out=self._told[alike])

    def warnings(self, hosts: Sequence[Host]) -> Iterator[str]:
        """What is served as declared, and may not be what was meant."""
        for host in hosts:
            for model in host.models:
                traced = self._traced(model, host)
                most = traced.context_max if isinstance(traced, Traced) else None
                if most is not None and model.context > most:
                    yield (
                        f"{host.name}: {model.slug}: `context` {model.context} is more than the "
                        f"{most} tokens that its config.json says it was made for"
                    )


@dataclass(frozen=True, kw_only=True)
class _Trial:
    """A plan of ``hosts`` with another model in the place of ``model``, refused on ``names``."""

    planning: _Planning
    hosts: Sequence[Host]
    names: Sequence[str]
    model: Model
    before: frozenset[_Process]

    def __call__(
        self,
        model: Model,
        traced: Traced | None = None,
        *,
        alone: bool = False,
        more: Sequence[Space] = (),
    ) -> Plan | None:
        lock = self.planning.lock
        mine = model.model_copy()  # by its identity known from what other hosts declare alike
        if traced is not None:
            lock = _Instead(lock=lock, model=mine, known=traced)
        # What goes over hosts is changed on all that declare it.
        changed = {
            host.name
            for host in self.hosts
            if host.name in self.names or self.model.hosts_spanned > 1
        }
        hosts = [
            host.model_copy(
                update={
                    "models": tuple(
                        mine if one == self.model and host.name in changed else one
                        for one in host.models
                        if one == self.model or not alone
                    )
                }
            )
            for host in self.hosts
        ]
        added = dict.fromkeys(self.names, tuple(more))
        plan = replace(self.planning, lock=lock, more=added).plan(hosts)
        refused = any(one.model == model.slug and one.host in self.names for one in plan.refusals)
        others = {one for one in self.before if one[0] not in self.names or one[1] != model.slug}
        lost = not alone and others - _placed(plan, hosts)
        return None if refused or lost else plan


@dataclass(frozen=True, kw_only=True)
class _Instead:
    """A lock that knows one model otherwise, and no other that is declared alike."""

    lock: Lock
    model: Model
    known: Traced

    def traced(
        self, model: Model, processor: Processor, *, mlx_lm: str | None = None
    ) -> Traced | str | None:
        if model is self.model:
            return self.known
        return self.lock.traced(model, processor, mlx_lm=mlx_lm)


_Process = tuple[str, str, int]  # host, model, replica


def _placed(plan: Plan, hosts: Sequence[Host]) -> frozenset[_Process]:
    """What is served where, but for what only fills what is left."""
    filling = {
        (host.name, model.slug)
        for host in hosts
        for model in host.models
        if model.replicas == "fill"
    }
    return frozenset(
        (member.host, one.model, one.replica)
        for one in plan.placements
        for member in one.members
        if one.replica == 0 or (member.host, one.model) not in filling
    )
