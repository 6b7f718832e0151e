"""Breaks made from a manifest: every resource, every kind of change that it can suffer.

Each is a shell script that root runs on a lab host, and the finding that must come of it. The
drift catalogue and the testinfra suite's break table are both made here, so neither can forget a
resource that the other breaks.
"""

from __future__ import annotations

import random
import shlex
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from lab import Host
from manifest import layout
from manifest.resources import (
    Directory,
    Entry,
    File,
    Instance,
    Package,
    Resource,
    Runtime,
    Sockets,
    Unit,
    UnitSet,
    User,
    Weights,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Break:
    """One change to one resource.

    ``finding`` is the class that a drift check must give it, ``at`` the address it must name.
    """

    kind: str
    resource: str  # the address of what is broken
    change: str  # "content", "mode", "gone", …
    script: str
    finding: str
    at: str

    @property
    def id(self) -> str:
        """A name for tests and tables: ``file:/etc/… content``."""
        return f"{self.resource} {self.change}"

    def apply(self, host: Host) -> None:
        """Break it, as root, from outside; raises ``lab.HostError`` where that does not work."""
        host.root_run(f"set -eu\n{self.script}", timeout_s=120)


BY_HAND, MISSING, UNMANAGED, OLD = "changed by hand", "missing", "unmanaged", "out of date"


def breaks(resources: Iterable[Resource]) -> list[Break]:
    """Make every break of every resource, in the order of the manifest."""
    return [
        Break(
            kind=resource.kind,
            resource=resource.address,
            change=change,
            script=script,
            finding=finding,
            at=_named(resource, change),
        )
        for resource in resources
        for change, script, finding in _CHANGES.get(type(resource), lambda _: iter(()))(resource)
    ]


def _named(resource: Resource, change: str) -> str:
    """What a check names: without its stamp a host can tell of that alone."""
    if (resource.id, change) == (layout.ETC, "gone"):
        return f"{File.kind}:{layout.STAMP}"
    return resource.address


def one_of_each(all_breaks: Iterable[Break], *, seed: int = 0) -> list[Break]:
    """Choose one break of every kind of resource and kind of change; the seed says which."""
    chosen: dict[tuple[str, str], list[Break]] = {}
    for one in all_breaks:
        chosen.setdefault((one.kind, one.change), []).append(one)
    choice = random.Random(seed)
    return [choice.choice(candidates) for candidates in chosen.values()]


Change = tuple[str, str, str]  # its name, the script, the finding's class


def _ownership(entry: Entry) -> Iterator[Change]:
    path = shlex.quote(entry.path)
    yield "mode", f"chmod 0500 {path}", BY_HAND
    yield "owner", f"chown nobody {path}", BY_HAND
    yield "group", f"chgrp nogroup {path}", BY_HAND


def _file(file: File) -> Iterator[Change]:
    path = shlex.quote(file.path)
    yield "content", f"echo '# by hand' >>{path}", BY_HAND
    if file.sha256 is not None:  # the stamp says the same with an empty line at its end
        yield (
            "content, time kept",
            f't=$(stat -c %y {path}); echo >>{path}; touch -d "$t" {path}',
            BY_HAND,
        )
    yield "emptied", f": >{path}", BY_HAND
    yield from _ownership(file)
    yield "gone", f"rm {path}", MISSING
    yield "replaced by a link", f"mv {path} {path}.moved; ln -s {path}.moved {path}", BY_HAND
    lost = BY_HAND if file.sha256 is not None else MISSING  # a stamp that cannot be read is none
    yield "replaced by a directory", f"rm {path}; mkdir {path}", lost


def _directory(directory: Directory) -> Iterator[Change]:
    path = shlex.quote(directory.path)
    yield from _ownership(directory)
    yield "gone", f"mv {path} {path}.moved", MISSING
    yield "replaced by a link", f"mv {path} {path}.moved; ln -s {path}.moved {path}", BY_HAND
    if directory.entries is not None:
        yield "added inside", f"touch {path}/by-hand.conf", UNMANAGED
        yield "directory added inside", f"mkdir {path}/by-hand.d", UNMANAGED


def _user(user: User) -> Iterator[Change]:
    name = shlex.quote(user.name)
    # usermod refuses a user who has processes; by hand one edits the file.
    edit = "sed -i '/^{name}:/s#{old}#{new}#' /etc/passwd"
    if user.home is not None:
        yield "home", edit.format(name=name, old=f":{user.home}:", new=":/root:"), BY_HAND
    if user.shell is not None:
        yield "shell", edit.format(name=name, old=f":{user.shell}$", new=":/bin/bash"), BY_HAND
    if user.groups is not None:
        yield "added to a group", f"gpasswd --add {name} adm >/dev/null", BY_HAND
    yield "gone", f"sed -i '/^{name}:/d' /etc/passwd /etc/shadow", MISSING


def _package(package: Package) -> Iterator[Change]:
    remove = "dpkg --force-depends --remove {name} >/dev/null 2>&1"
    yield "gone", remove.format(name=shlex.quote(package.name)), MISSING


def _tree(path: str, record: str, victim: str) -> Iterator[Change]:
    """Break a sealed tree; ``victim`` is a shell expression that prints one file of it."""
    path, record = shlex.quote(path), shlex.quote(record)
    pick = f"f=$({victim})"
    yield "content", f'{pick}; printf x >>"$f"', BY_HAND
    # Same size, same modification time: only the change time tells, and that cannot be set.
    flip = 'printf "\\377" | dd of="$f" bs=1 seek=8 conv=notrunc status=none'
    kept = f'{pick}; t=$(stat -Lc %y "$f"); {flip}; touch -d "$t" "$f"'
    yield "content, size and time kept", kept, BY_HAND
    yield "truncated", f'{pick}; truncate -s -1 "$f"', BY_HAND
    yield "mode", f'{pick}; chmod 0777 "$(readlink -f "$f")"', BY_HAND
    yield "owner", f'{pick}; chown nobody "$(readlink -f "$f")"', BY_HAND
    yield "file gone", f'{pick}; rm "$f"', BY_HAND
    yield "file added", f"echo by hand >{path}/by-hand.json", BY_HAND
    yield "link added", f"ln -s /etc/hostname {path}/by-hand.link", BY_HAND
    yield "gone", f"mv {path} {path}.moved", MISSING
    yield "record gone", f"rm {record}", MISSING


def _runtime(runtime: Runtime) -> Iterator[Change]:
    victim = f"find {shlex.quote(runtime.path)} -name '*.py' -size +1k -type f | sort | head -1"
    yield from _tree(runtime.path, str(runtime.record), victim)
    path = shlex.quote(runtime.path)
    yield "replaced by a link", f"mv {path} {path}.moved; ln -s {path}.moved {path}", MISSING
    config = shlex.quote(f"{runtime.path}/pyvenv.cfg")
    yield "other interpreter", f"sed -i 's/^home = .*/home = \\/opt/' {config}", BY_HAND


def _weights(weights: Weights) -> Iterator[Change]:
    victim = f"ls -d {shlex.quote(weights.path)}/model*.safetensors | head -1"
    yield from _tree(weights.path, str(weights.record), victim)
    config = shlex.quote(f"{weights.path}/config.json")
    copied = f"cp --remove-destination $(readlink -f {config}) {config}"
    yield "link replaced by its file", copied, BY_HAND


def _unit(unit: Unit) -> Iterator[Change]:
    name = shlex.quote(unit.name)
    if unit.active is not None:
        yield "stopped", f"systemctl stop {name}", BY_HAND
    if unit.enabled == "enabled":
        yield "disabled", f"systemctl disable --quiet {name}", BY_HAND
    own = unit.fragment is not None and unit.fragment.endswith(f"/{unit.name}")
    if own:
        # Its file stands where the mask would: systemctl refuses, a hand does not.
        fragment = shlex.quote(str(unit.fragment))
        yield "masked", f"ln -sf /dev/null {fragment}; systemctl daemon-reload", BY_HAND
    else:
        yield "masked", f"systemctl mask --quiet {name}", BY_HAND
        yield "masked until reboot", f"systemctl mask --runtime --quiet {name}", BY_HAND
    for folder, word in (("/etc", "drop-in added"), ("/run", "drop-in added until reboot")):
        drop_in = f"{folder}/systemd/system/{name}.d"
        make = f"mkdir -p {drop_in}; printf '[Service]\\nNice=5\\n' >{drop_in}/90-by-hand.conf"
        yield word, f"{make}; systemctl daemon-reload", UNMANAGED
    if unit.fragment and not own:
        shadow = f"cp {shlex.quote(unit.fragment)} /etc/systemd/system/{name}"
        yield "shadowed", f"{shadow}; systemctl daemon-reload", BY_HAND


def _unit_set(unit_set: UnitSet) -> Iterator[Change]:
    stranger = shlex.quote(unit_set.pattern.replace("*", "by-hand.0.service"))
    yield "one added", f"systemctl start {stranger} || :", UNMANAGED


def _instance(instance: Instance) -> Iterator[Change]:
    unit = shlex.quote(instance.unit)
    config = shlex.quote(f"/etc/mlx-hosts/instances/{instance.name}.json")
    edit = f'cp -a {config} /root/kept.json; sed -i \'s/"inputs": "..../"inputs": "0000/\' {config}'
    back = f"systemctl restart {unit}; mv /root/kept.json {config}"
    yield "started from something else", f"{edit}; {back}", OLD
    # A copy put in the place of the original: the same bytes, but the engine runs the deleted ones.
    runtime = f'r=$(sed -n \'s/.*"runtime": "\\(.*\\)".*/\\1/p\' {config})'
    copied = 'cp -a "$r" "$r.copy"; rm -rf "$r"; mv "$r.copy" "$r"'
    yield "runs deleted files", f"{runtime}; {copied}", OLD


def _sockets(sockets: Sockets) -> Iterator[Change]:
    server = "python3 -m http.server --bind 127.0.0.1 8123"
    listen = f"setpriv --reuid {shlex.quote(sockets.user)} --clear-groups {server}"
    ready = "until ss -Hltn sport = :8123 | grep -q .; do sleep 0.1; done"
    yield "one opened", f"setsid {listen} >/dev/null 2>&1 </dev/null & {ready}", UNMANAGED


_CHANGES: dict[type[Resource], Callable[..., Iterator[Change]]] = {
    User: _user,
    Package: _package,
    Directory: _directory,
    File: _file,
    Runtime: _runtime,
    Weights: _weights,
    Unit: _unit,
    UnitSet: _unit_set,
    Instance: _instance,
    Sockets: _sockets,
}
