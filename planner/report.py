"""A plan as a person reads it: each device as a bar, each model with its verdict."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from planner.amounts import gib
from planner.plan import Placement, Plan, Refusal, Space

BAR, SHORTEST_BAR = 56, 10  # characters, between its ends
PARTS = (
    ("weights", "weights", "blue"),
    ("kv", "KV cache", "green"),
    ("prompt_cache", "kept prompts", "cyan"),
    ("work", "work", "yellow"),
    ("process", "process", "magenta"),
)


def report(plan: Plan) -> RenderableType:
    """The whole plan, ready to print."""
    parts: list[RenderableType] = []
    for host in dict.fromkeys(space.host for space in plan.spaces):
        spaces = [space for space in plan.spaces if space.host == host]
        parts += [Text(host, style="bold"), _devices(spaces, plan.on(host)), Text()]
    if plan.spaces:
        parts += [_legend(), Text()]
    if plan.placements:
        parts += [_placements(plan.placements), Text()]
    parts += [line for refusal in plan.refusals for line in _refusal(refusal)]
    parts += [Text(f"{host}: {reason}", style="yellow") for host, reason in plan.undecided.items()]
    parts += [Text(f"! {warning}", style="yellow") for warning in plan.warnings]
    parts.append(_verdict(plan))
    return Group(*parts)


@dataclass(frozen=True, kw_only=True)
class _Layouts:
    """One thing twice: ``wide`` where a terminal has the room, else ``narrow``."""

    wide: RenderableType
    narrow: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        needed = Measurement.get(console, options.update(max_width=10_000), self.wide).maximum
        yield self.wide if needed <= options.max_width else self.narrow


def _devices(spaces: Sequence[Space], placed: Sequence[Placement]) -> _Layouts:
    wide = Table.grid(padding=(0, 1))
    narrow: list[RenderableType] = []
    for space in spaces:
        mine = [p for p in placed for m in p.members if (m.host, m.gpu) == (space.host, space.gpu)]
        free = space.usable - sum(p.need.total for p in mine)
        label = "memory" if space.gpu is None else f"GPU {space.gpu}"
        room = f"{gib(free)} free of {gib(space.total)}"
        instances = ", ".join(dict.fromkeys(p.instance for p in mine)) or "nothing"
        bar = _Bar(space=space, placed=mine)
        wide.add_row(f"  {label}", bar, room, instances)
        wide.add_row("", Text(space.name, style="dim") if space.gpu is not None else "")
        name = Text(f", {space.name}" if space.gpu is not None else "", style="dim")
        line = Table.grid(padding=(0, 1))
        line.add_column()
        line.add_column(no_wrap=True)
        line.add_row(bar, room)
        narrow += [Padding(Text(label).append(name), (0, 0, 0, 2))]
        narrow += [Padding(each, (0, 0, 0, 4)) for each in (line, instances)]
    return _Layouts(wide=wide, narrow=Group(*narrow))


@dataclass(frozen=True, kw_only=True)
class _Bar:
    """A device's memory in equal parts, one character each, rounded down together."""

    space: Space
    placed: Iterable[Placement]

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(SHORTEST_BAR + 2, BAR + 2)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        parts = min(options.max_width - 2, BAR)
        bar = Text("▕")
        at = 0.0
        drawn = 0
        for placement in self.placed:
            for name, _, colour in PARTS:
                at += getattr(placement.need, name) * parts / self.space.total
                bar.append("█" * (round(at) - drawn), style=colour)
                drawn = max(drawn, round(at))
        usable = max(drawn, round(self.space.usable * parts / self.space.total))
        bar.append("░" * (usable - drawn), style="dim")
        bar.append("/" * (parts - usable), style="dim red")
        yield bar.append("▏")


def _legend() -> Text:
    text = Text("  ")
    for _, words, colour in PARTS:
        text.append("█ ", style=colour).append(f"{words}  ")
    text.append("░ ", style="dim").append("free  ")
    return text.append("/ ", style="dim red").append("kept back or others'")


def _placements(placements: Iterable[Placement]) -> _Layouts:
    wide = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("instance", "host", "on", "weights", "KV", "kept", "work", "process", "total"):
        wide.add_column(name, justify="left" if name in {"instance", "host", "on"} else "right")
    wide.add_column("told the server")
    narrow: list[RenderableType] = []
    for p in placements:
        parts = {words: gib(getattr(p.need, name)) for name, words, _ in PARTS}
        s = p.settings
        told = (
            f"{s.decode_concurrency} at once, {s.prompt_concurrency} prompts in steps of "
            f"{s.prefill_step}, {s.prompt_cache_entries} kept"
        )
        hosts, devices = "\n".join(p.where), "\n".join(p.where.values())
        wide.add_row(p.instance, hosts, devices, *parts.values(), gib(p.need.total), told)
        on = "; ".join(f"{host}, {devices}" for host, devices in p.where.items())
        narrow.append(Text().append(p.instance, style="bold").append(f" on {on}"))
        sizes = ", ".join(f"{words} {size}" for words, size in parts.items())
        lines = (f"{sizes}; {gib(p.need.total)} in all", f"told the server: {told}")
        narrow += [Padding(Text(line), (0, 0, 0, 4)) for line in lines]
    return _Layouts(wide=wide, narrow=Group(*narrow))


def _refusal(refusal: Refusal) -> list[Text]:
    lines = [Text("✗ ", style="bold red").append(refusal.sentence)]
    lines += [Text(f"    → {way}") for way in refusal.ways_out]
    return lines


def _verdict(plan: Plan) -> Text:
    if plan.refusals:
        # One that was to span hosts is refused on each of them.
        models = {(one.model, one.span or one.host) for one in plan.refusals}
        return Text(f"{len(models)} of the models asked for do not fit", style="bold red")
    if plan.undecided:
        return Text("not all hosts could be planned", style="bold yellow")
    return Text("everything fits", style="bold green")
