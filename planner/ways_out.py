"""What would make a refused model fit: each way is tried in a plan of its own before it is told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from planner.amounts import gib
from planner.declared import Model
from planner.elsewhere import elsewhere
from planner.fitting import Candidate, Devices, candidate, on_each_host
from planner.plan import Placement, Plan, Space
from planner.traced import SIZES, Rank, Traced

SHORTEST = 256  # tokens: less is no context to serve
MORE = 16  # devices that are tried
BITS = (8, 6, 5, 4, 3)
GROUP_BITS = 0.5  # a scale and a bias of 16 bits for each 64 weights


class Trial(Protocol):
    """A plan of the same hosts with another model in the place of the refused one."""

    def __call__(
        self,
        model: Model,
        traced: Traced | None = None,
        *,
        alone: bool = False,
        more: Sequence[Space] = (),
    ) -> Plan | None:
        """The plan where ``model`` fits beside all that fitted before; None where it does not.

        ``alone``: without the hosts' other models; ``more``: with these devices more on each host.
        """


@dataclass(frozen=True, kw_only=True)
class Ways:
    """The ways out for one model that was refused."""

    model: Model
    traced: Traced
    spaces: Sequence[Space]  # of its host, or of all hosts of its span
    devices: Devices
    trial: Trial

    def told(self) -> tuple[str, ...]:
        """The smallest change first; other engines where there is none."""
        ways = [*self._less(), *self._by_hand(), *self._more(), *self._quantized()]
        none = not ways
        ways += self._why_not_split()
        if none and (able := next(self._able(), None)):
            needs = able.need(able.rungs()[-1], self.spaces, self.devices)
            ways += elsewhere(self.traced, needs.kv * able.size, self.spaces)
        return tuple(ways)

    def _fits(self, **changed: object) -> Plan | None:
        return self.trial(self.model.model_copy(update=changed))

    def _less(self) -> Iterator[str]:
        """Less of what is asked for."""
        model, longest = self.model, self.traced.context_max or self.model.context
        below = min(model.context, longest + 1)
        if tokens := _largest(lambda n: bool(self._fits(context=n)), SHORTEST, below):
            yield f"`context` {tokens} at this concurrency"
        if fewer := _largest(lambda n: bool(self._fits(concurrency=n)), 1, model.concurrency):
            yield f"`concurrency` {fewer} at this context"
        if model.replicas == "fill":
            return
        if fewer := _largest(lambda n: bool(self._fits(replicas=n)), 1, model.replicas):
            yield f"`replicas` {fewer}"

    def _by_hand(self) -> Iterator[str]:
        """Other devices of the same host."""
        given = [name for name in ("gpus", "ranks") if getattr(self.model, name) is not None]
        plan = self._fits(gpus=None, ranks=None) if given else None
        if plan and (placed := self._here(plan)):
            where = "; ".join(placed.where.values())
            yield f"without `{'` and `'.join(given)}`: it fits on {where}"

    def _more(self) -> Iterator[str]:
        """More devices of a kind than there are."""
        if self.spaces[0].gpu is None:
            if self.trial(self.model, alone=True):
                yield "a machine of its own: other models have the room"
            return
        pinned = self.model.gpus
        if pinned is not None and self.model.hosts_spanned > 1:
            return  # the same pin would have to be right on every host that declares it
        spaces = [one for one in self.spaces if pinned is None or one.gpu in pinned]
        kinds = {space.name: space for space in sorted(spaces, key=lambda it: it.usable)}
        hosts = len({one.host for one in self.spaces})
        for name, space in reversed(kinds.items()):
            card = replace(space, usable=int(space.total * self.devices.cuda.usable_share))
            counts = Counter(one.host for one in self.spaces if one.name == name)
            there = min(counts.values()) if len(counts) == hosts else 0
            even = len({*counts.values()}) == 1 and there
            for count in range(1, MORE + 1) if self._could(card) else ():
                if placed := self._placed(card, count):
                    able = candidate(self.model, self.traced, placed.ranks)
                    assert able is not None, "it was placed"  # noqa: S101
                    needs = able.need(able.rungs()[-1], [card], self.devices).total
                    each = f"on each of {placed.ranks}" if placed.ranks > 1 else "on one"
                    if even and placed.ranks == (there + count) * hosts:
                        each = "on each"
                    others = self.trial(self.model, alone=True)
                    why = "; other models have the room that there is" if others else ""
                    its = f"{name}) on each host" if hosts > 1 else f"{name})"
                    many = f"{there + count} GPUs" if even else f"{count} GPUs more"
                    yield f"{many} of this kind ({its}: {gib(needs)} {each}{why}"
                    return

    def _could(self, card: Space) -> bool:
        """Whether it can be had on so many of such cards, with nothing else on them."""
        return any(
            able.need(able.rungs()[-1], [card], self.devices).total <= card.usable
            for able in self._able()
        )

    def _placed(self, card: Space, count: int) -> Placement | None:
        """Where the model is with ``count`` cards more on each host; pinned to them, if it is."""
        model = self.model
        if model.gpus is not None:  # those of one host
            own = len(self.spaces)
            model = model.model_copy(update={"gpus": tuple(range(own, own + count))})
        plan = self.trial(model, more=[card] * count)
        return self._here(plan) if plan else None

    def _here(self, plan: Plan) -> Placement | None:
        """Where the model is on the hosts that it was refused on."""
        hosts = {space.host for space in self.spaces}
        return next(
            (
                one
                for one in plan.placements
                if one.model == self.model.slug and hosts & {*one.where}
            ),
            None,
        )

    def _quantized(self) -> Iterator[str]:
        """Fewer bits a weight, where that alone is enough."""
        able = next(self._able(), None)
        if able is None:
            return
        weights = able.rank.weights * able.size
        bits = weights * 8 / max(1, self.traced.parameters)
        for fewer in BITS:
            share = (fewer + GROUP_BITS) / bits
            if share < 1 and self.trial(self.model, self.traced.lighter(share)):
                has = f"it has {bits:.1f} a weight"
                yield f"quantized to {fewer} bits ({has}): about {gib(int(weights * share))} in all"
                return

    def _why_not_split(self) -> Iterator[str]:
        """Why MLX cannot use other GPUs for it."""
        if self.spaces[0].gpu is None or len(self.model.gpus or ()) > 1:
            return
        there, _ = on_each_host(self.spaces)
        size = max(size for size in SIZES if size <= max(2, there))
        reason = self.traced.rank(size)
        if isinstance(reason, Rank):
            return
        either = "" if there >= size else " either"
        lacks = "send and receive, which MLX's NCCL back end lacks, although NCCL itself is there"
        yield f"MLX cannot split it over {size} GPUs{either}: {reason}; pipelining needs {lacks}"

    def _able(self) -> Iterator[Candidate]:
        """The model over as few devices as it can be had on, then over more."""
        return (able for size in SIZES if (able := candidate(self.model, self.traced, size)))


def _largest(holds: Callable[[int], bool], least: int, below: int) -> int:
    """The largest number from ``least`` and under ``below`` for which ``holds``, 0 for none.

    Of what holds here and there (a plan is not made by a formula) one above which the next does
    not.
    """
    if below <= least or not holds(least):
        return 0
    low, high = least, below
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
