"""Why a model is not served: the numbers on both sides, and what would make it fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from planner.amounts import gib
from planner.declared import Model
from planner.demand import Settings, ladder
from planner.elsewhere import elsewhere
from planner.fitting import Candidate, Devices, candidate
from planner.plan import Refusal, Space
from planner.traced import Rank, Traced

SHORTEST = 256  # tokens: less is no context to serve
BITS = (8, 6, 5, 4, 3)
GROUP_BITS = 0.5  # a scale and a bias of 16 bits for each 64 weights


def untraced(host: str, model: Model, reason: str | None, available: int) -> Refusal:
    """A model that could not be traced, or was not yet."""
    words = f"mlx-lm cannot load or run it: {reason}" if reason else "not in models.lock"
    return Refusal(
        host=host, model=model.slug, needed=None, available=available, reason=words, ways_out=()
    )


@dataclass(frozen=True, kw_only=True)
class Refusing:
    """The refusals of one host."""

    host: str
    spaces: Sequence[Space]
    devices: Devices

    def refusal(
        self, model: Model, traced: Traced, sizes: Sequence[int], room: int, *, replica: int
    ) -> Refusal:
        """No room for ``model`` over any of ``sizes`` devices, where ``room`` bytes are free."""
        able = [it for size in sizes if (it := candidate(model, traced, size))]
        cpu = self.spaces[0].gpu is None
        if not cpu and sizes[-1] > (kin := self._of_one_kind()):
            return Refusal(
                host=self.host,
                model=model.slug,
                needed=None,
                available=room,
                reason=f"asks for {sizes[-1]} GPUs of one kind; there are {kin}",
                ways_out=("leave `ranks` and `gpus` out, or give the host the GPUs",),
            )
        if not able:
            return Refusal(
                host=self.host,
                model=model.slug,
                needed=None,
                available=room,
                reason=f"cannot be split over {sizes[-1]} {'processes' if cpu else 'GPUs'}: "
                f"{traced.rank(sizes[-1])}",
                ways_out=("leave it whole, or split it over a number that divides its heads",),
            )
        wide = able[-1]
        space = max(self.spaces, key=lambda one: one.usable)
        settings = wide.rungs()[-1]
        needs = wide.need(settings, space, self.devices)
        where = "in memory" if cpu else f"on one {space.name}"
        if wide.size > 1:
            where = f"on each of {wide.size} GPUs ({space.name})"
            if cpu:
                where = f"in each of {wide.size} processes"
        again = f"replica {replica} " if replica else ""
        reason = (
            f"{again}needs {gib(needs.total)} {where} at the least (weights {gib(needs.weights)}, "
            f"KV cache {gib(needs.kv)}, work {gib(needs.work)}, process {gib(needs.process)}); "
            f"{gib(room)} are free there of {gib(space.usable)} usable"
        )
        return Refusal(
            host=self.host,
            model=model.slug,
            needed=needs.total,
            available=room,
            reason=reason,
            ways_out=tuple(self._ways_out(wide, settings, space, room)),
        )

    def _of_one_kind(self) -> int:
        names = [space.name for space in self.spaces]
        return max(names.count(name) for name in names)

    def _ways_out(self, wide: Candidate, settings: Settings, space: Space, room: int) -> list[str]:
        """What would make it fit, the smallest change first."""
        model = wide.model

        def fits(context: int, told: Settings, within: int = room) -> bool:
            return wide.need(told, space, self.devices, context=context).total <= within

        def frugal(concurrency: int) -> Settings:
            return ladder(concurrency, wide.traced)[-1]

        ways: list[str] = []
        longest = _largest(lambda tokens: fits(tokens, settings), model.context)
        if longest >= SHORTEST:
            ways.append(f"`context` {longest} at this concurrency")
        fewer = _largest(lambda n: fits(model.context, frugal(n)), model.concurrency)
        if fewer:
            ways.append(f"`concurrency` {fewer} at this context")
        if fits(model.context, settings, space.usable):
            ways.append("a device of its own: other models have the room")
        ways += self._more(wide, settings, space)
        ways += self._quantized(wide, settings, space, room)
        none = not ways
        ways += self._why_not_split(wide)
        if space.gpu is not None and none:
            needs = wide.need(settings, space, self.devices)
            ways += elsewhere(wide.traced, needs.kv * wide.size, self.spaces)
        return ways

    def _more(self, wide: Candidate, settings: Settings, space: Space) -> list[str]:
        """More GPUs of the same kind than the host has."""
        for size in (2, 4, 8):
            more = candidate(wide.model, wide.traced, size)
            if space.gpu is None or size <= len(self.spaces) or more is None:
                continue
            needs = more.need(settings, space, self.devices)
            if needs.total <= space.usable:
                return [f"{size} GPUs of this kind: {gib(needs.total)} on each"]
        return []

    def _quantized(self, wide: Candidate, settings: Settings, space: Space, room: int) -> list[str]:
        """Fewer bits a weight, where that alone is enough."""
        weights = wide.rank.weights
        left = room - (wide.need(settings, space, self.devices).total - weights)
        bits = weights * wide.size * 8 / max(1, wide.traced.parameters)
        for fewer in BITS:
            smaller = int((fewer + GROUP_BITS) / bits * weights)
            if fewer + GROUP_BITS < bits and smaller <= left:
                has = f"it has {bits:.1f} a weight"
                return [f"quantized to {fewer} bits ({has}): about {gib(smaller)} of weights"]
        return []

    def _why_not_split(self, wide: Candidate) -> list[str]:
        """Why MLX cannot use the host's other GPUs for it."""
        sizes = [size for size in (2, 4, 8) if size <= len(self.spaces)]
        reason = wide.traced.rank(sizes[-1]) if sizes else None
        if wide.model.gpus is not None or reason is None or isinstance(reason, Rank):
            return []
        lacks = "send and receive, which MLX's NCCL back end lacks, although NCCL itself is there"
        return [
            f"MLX cannot split it over {sizes[-1]} GPUs: {reason}; pipelining needs {lacks}",
        ]


def _largest(holds: Callable[[int], bool], below: int) -> int:
    """The largest number under ``below`` for which ``holds``, 0 where there is none."""
    low, high = 0, below
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
