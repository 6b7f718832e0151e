"""A plan as a person reads it: each device as a bar, each model with its verdict."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from planner.amounts import gib
from planner.plan import Placement, Plan, Refusal, Space

BAR = 56  # characters
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


def _devices(spaces: Sequence[Space], placed: Sequence[Placement]) -> Table:
    table = Table.grid(padding=(0, 1))
    for space in spaces:
        mine = [p for p in placed for m in p.members if (m.host, m.gpu) == (space.host, space.gpu)]
        free = space.usable - sum(p.need.total for p in mine)
        label = "memory" if space.gpu is None else f"GPU {space.gpu}"
        instances = ", ".join(dict.fromkeys(p.instance for p in mine)) or "nothing"
        table.add_row(
            f"  {label}", _bar(space, mine), f"{gib(free)} free of {gib(space.total)}", instances
        )
        table.add_row("", Text(space.name, style="dim") if space.gpu is not None else "")
    return table


def _bar(space: Space, placed: Iterable[Placement]) -> Text:
    """A device's memory, one character for each of ``BAR`` equal parts, rounded down together."""
    bar = Text("▕")
    at = 0.0
    drawn = 0
    for placement in placed:
        for name, _, colour in PARTS:
            at += getattr(placement.need, name) * BAR / space.total
            bar.append("█" * (round(at) - drawn), style=colour)
            drawn = max(drawn, round(at))
    usable = max(drawn, round(space.usable * BAR / space.total))
    bar.append("░" * (usable - drawn), style="dim")
    bar.append("/" * (BAR - usable), style="dim red")
    return bar.append("▏")


def _legend() -> Text:
    text = Text("  ")
    for _, words, colour in PARTS:
        text.append("█ ", style=colour).append(f"{words}  ")
    text.append("░ ", style="dim").append("free  ")
    return text.append("/ ", style="dim red").append("kept back or others'")


def _placements(placements: Iterable[Placement]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("instance", "host", "on", "weights", "KV", "kept", "work", "process", "total"):
        table.add_column(name, justify="left" if name in {"instance", "host", "on"} else "right")
    table.add_column("told the server")
    for p in placements:
        parts = [gib(getattr(p.need, name)) for name, _, _ in PARTS]
        s = p.settings
        told = (
            f"{s.decode_concurrency} at once, {s.prompt_concurrency} prompts in steps of "
            f"{s.prefill_step}, {s.prompt_cache_entries} kept"
        )
        hosts, devices = "\n".join(p.where), "\n".join(p.where.values())
        table.add_row(p.instance, hosts, devices, *parts, gib(p.need.total), told)
    return table


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
