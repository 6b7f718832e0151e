"""Why a model is not served: the numbers on both sides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from planner.amounts import gib
from planner.declared import Model
from planner.fitting import Attempt, Devices, candidate, on_each_host
from planner.plan import Refusal, Space
from planner.traced import Traced


def untraced(host: str, model: Model, reason: str | None, available: int) -> Refusal:
    """A model that could not be traced, or was not yet."""
    words = f"mlx-lm cannot load or run it: {reason}" if reason else "not in models.lock"
    return Refusal(
        host=host, model=model.slug, needed=None, available=available, reason=words, ways_out=()
    )


def impossible(host: str, model: Model, reason: str, span: Sequence[str] = ()) -> Refusal:
    """MLX cannot run on a GPU of the host, whatever the model."""
    way = "another GPU, or another engine on this one"
    return Refusal(
        host=host,
        model=model.slug,
        needed=None,
        available=None,
        reason=reason,
        ways_out=(way,),
        span=tuple(span),
    )


@dataclass(frozen=True, kw_only=True)
class Refusing:
    """The refusals of one host; what would make a model fit is tried when the plan is made."""

    host: str
    spaces: Sequence[Space]  # its own, or those of all hosts of a span
    devices: Devices

    def refusal(
        self, model: Model, traced: Traced, size: int, tried: Sequence[Attempt], *, replica: int
    ) -> Refusal:
        """No room for ``model`` in any of what was ``tried``, over ``size`` devices at the most."""
        if not tried:
            return self._without_numbers(model, traced, size)
        near = min(tried, key=lambda it: it.least(self.devices).total - it.room)
        needs = near.least(self.devices)
        cpu = self.spaces[0].gpu is None
        size = near.able.size
        names = ", ".join(dict.fromkeys(space.name for space in near.spaces))
        where = "in memory" if cpu else f"on one {names}"
        if size > 1:
            where = f"in each of {size} processes" if cpu else f"on each of {size} GPUs ({names})"
        again = f"replica {replica} " if replica else ""
        usable = min(space.usable for space in near.spaces)
        reason = (
            f"{again}needs {gib(needs.total)} {where} at the least (weights {gib(needs.weights)}, "
            f"KV cache {gib(needs.kv)}, work {gib(needs.work)}, process {gib(needs.process)}); "
            f"{gib(near.room)} are free there of {gib(usable)} usable"
        )
        return self._said(model, reason, needed=needs.total, available=near.room)

    def _without_numbers(self, model: Model, traced: Traced, size: int) -> Refusal:
        """There was nothing to try: the model cannot be had so."""
        count = len(self.spaces)
        if absent := [index for index in model.gpus or () if index >= count]:
            reason = f"pinned to GPU {absent[0]}, which is not there: the host has {count}"
            return self._said(model, reason, "name a GPU in `gpus` that it has")
        if candidate(model, traced, size) is None:
            over = "processes" if self.spaces[0].gpu is None else "GPUs"
            reason = f"cannot be split over {size} {over}: {traced.rank(size)}"
            way = "leave it whole, or split it over a number that divides its heads"
            return self._said(model, reason, way)
        there, hosts = on_each_host(self.spaces)
        each = " on each host" if hosts > 1 else ""
        reason = f"asks for {size // hosts} GPUs of one kind{each}; there are {there}"
        return self._said(model, reason, "leave `ranks` out, or give the host the GPUs")

    def _said(
        self,
        model: Model,
        reason: str,
        *ways_out: str,
        needed: int | None = None,
        available: int | None = None,
    ) -> Refusal:
        hosts = tuple(dict.fromkeys(space.host for space in self.spaces))
        return Refusal(
            host=self.host,
            model=model.slug,
            needed=needed,
            available=available,
            reason=reason,
            ways_out=ways_out,
            span=hosts if len(hosts) > 1 else (),
        )
