"""A plan: what goes where, and what does not, with the reasons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from planner.demand import Need, Settings
from planner.record import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Member(Record):
    """One process of a placement: which GPU of which host; no GPU on a CPU host."""

    host: str
    gpu: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement(Record):
    """One instance: a model, or one replica of it, on the GPUs of a host."""

    host: str  # of rank 0, which answers
    model: str  # slug
    replica: int
    members: tuple[Member, ...]  # in rank order
    engine: str
    settings: Settings
    need: Need  # of each member

    @property
    def instance(self) -> str:
        return f"{self.model}.{self.replica}"

    @property
    def gpus(self) -> tuple[int, ...]:
        """Indices in PCI order on ``host``."""
        return tuple(m.gpu for m in self.members if m.host == self.host and m.gpu is not None)

    @property
    def where(self) -> dict[str, str]:
        """By host, in words: which of its devices."""
        words: dict[str, str] = {}
        for host in dict.fromkeys(member.host for member in self.members):
            gpus = [member.gpu for member in self.members if member.host == host]
            on = "GPU " + "+".join(map(str, gpus))
            if gpus[0] is None:
                on = "CPU" if len(gpus) == 1 else f"CPU x {len(gpus)}"
            words[host] = on
        return words

    @property
    def ranks(self) -> int:
        return len(self.members)

    def to_json(self) -> dict[str, object]:
        return {
            "instance": self.instance,
            "host": self.host,
            "model": self.model,
            "replica": self.replica,
            "gpus": list(self.gpus),
            "ranks": self.ranks,
            "members": [member.to_json() for member in self.members],
            "engine": self.engine,
            "settings": self.settings.to_json(),
            "need": self.need.to_json(),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal(Record):
    """A model that is not served, or not as often as it was asked for."""

    host: str
    model: str
    needed: int | None  # bytes on each device, at the least; None: it could not be told
    available: int | None  # bytes, on the device that has most
    reason: str
    ways_out: tuple[str, ...] = ()
    span: tuple[str, ...] = ()  # all hosts that were to serve it together, where there are several

    @property
    def sentence(self) -> str:
        return f"{self.host}: {self.model}: {self.reason}"

    def to_json(self) -> dict[str, object]:
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        lists = {"ways_out": list(self.ways_out), "span": list(self.span)}
        return {**fields, **lists, "sentence": self.sentence}


@dataclass(frozen=True, slots=True, kw_only=True)
class Space(Record):
    """One device that can be placed on: a GPU, or a CPU host's memory (``gpu`` is None)."""

    host: str
    gpu: int | None
    name: str
    compute_capability: str | None
    total: int
    usable: int  # bytes for instances, after what is kept back and what others may hold


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(Record):
    """For all hosts: every model is in ``placements`` or in ``refusals``."""

    spaces: tuple[Space, ...] = ()
    placements: tuple[Placement, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    undecided: Mapping[str, str] = field(default_factory=dict)  # host: why its devices are unknown
    warnings: tuple[str, ...] = ()  # what is served as declared, and is worth a second look

    @property
    def fits(self) -> bool:
        """All that is asked for is placed: nothing is refused, and no host is left undecided."""
        return not self.refusals and not self.undecided

    def on(self, host: str) -> tuple[Placement, ...]:
        """The placements that have a member on ``host``."""
        return tuple(p for p in self.placements if any(m.host == host for m in p.members))

    def to_json(self) -> dict[str, object]:
        return {
            "fits": self.fits,
            "spaces": [space.to_json() for space in self.spaces],
            "placements": [placement.to_json() for placement in self.placements],
            "refusals": [refusal.to_json() for refusal in self.refusals],
            "undecided": dict(self.undecided),
            "warnings": list(self.warnings),
        }
