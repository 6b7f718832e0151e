"""A drift check for people: a table in the terminal."""

from __future__ import annotations

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from manifest.findings import Cause
from manifest.judgement import Verdict
from reports.fleet import Fleet, HostReport
from reports.masking import masked
from reports.repair import repair
from reports.values import told

VERDICTS: dict[Verdict, str] = {"as declared": "green", "drift": "yellow", "cannot tell": "red"}
CAUSES: dict[Cause, str] = {
    "changed by hand": "yellow",
    "not rolled out": "blue",
    "run not finished": "magenta",
    "missing": "yellow",
    "unmanaged": "yellow",
    "out of date": "cyan",
    "cannot tell": "red",
}


def show(fleet: Fleet, console: Console) -> None:
    """Print the findings, the commands that repair them, and a line for each host."""
    console.print(_whole(fleet))


def _whole(fleet: Fleet) -> RenderableType:
    if fleet.trouble:
        return Text(f"cannot tell: {masked(fleet.trouble)}", style="red")
    parts: list[RenderableType] = []
    if any(host.judgement.findings for host in fleet.hosts):
        parts += [_findings(fleet), Text()]
    parts += [_host(host, fleet) for host in fleet.hosts]
    return Group(*parts, Text(), _sum(fleet))


def _findings(fleet: Fleet) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("host", no_wrap=True)
    table.add_column("class", no_wrap=True)
    table.add_column("resource", overflow="fold", ratio=3)
    table.add_column("expected", overflow="fold", ratio=2)
    table.add_column("found", overflow="fold", ratio=2)
    for host in fleet.hosts:
        for one in host.judgement.findings:
            attribute = f" [dim]{one.attribute}[/]" if one.attribute else ""
            expected, found, note = map(escape, told(one))
            table.add_row(
                escape(host.name),
                f"[{CAUSES[one.cause]}]{one.cause}[/]",
                f"{one.kind} {escape(masked(one.id))}{attribute}",
                expected,
                f"{found} [dim]{note}[/]" if note else found,
            )
    return table


def _host(host: HostReport, fleet: Fleet) -> Text:
    line = Text()
    line.append(f"{host.name}  ", style="bold")
    one = host.judgement
    line.append(one.verdict, style=VERDICTS[one.verdict])
    if one.findings:
        line.append(f": {len(one.findings)} findings in {one.checked} resources")
    elif one.checked:
        line.append(f": {one.checked} resources", style="dim")
    if one.tolerated:
        line.append(f", {len(one.tolerated)} tolerated", style="dim")
    line.append(f"  {host.seconds:.2f} s", style="dim")
    for trouble in one.troubles:
        line.append(f"\n    {masked(trouble)}", style="red")
    commands = {
        repair(one, inventory=fleet.inventory, host=host.name) for one in host.judgement.findings
    }
    for command in sorted(commands):
        line.append(f"\n    {command}", style="cyan")
    return line


def _sum(fleet: Fleet) -> Text:
    verdicts = [host.judgement.verdict for host in fleet.hosts]
    counts = ", ".join(
        f"{verdicts.count(verdict)} {verdict}" for verdict in VERDICTS if verdict in verdicts
    )
    return Text(f"{len(verdicts)} hosts in {fleet.seconds:.1f} s: {counts}")
