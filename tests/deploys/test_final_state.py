"""The tests of the final state fail on every break: `tests/host` against the shared breaks.

In CI one break of each kind of resource and a sample that rotates by the printed `--seed`; `make
soak` makes all of them and writes the table in docs/host-tests.md.
"""

from __future__ import annotations

import os
import random
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lab import Host, Lab
from manifest.manifest import Manifest
from manifest.resources import Runtime, Shelf, Weights
from manifest.stamp import loads
from tests.breaks import Break, breaks
from tests.deploying import PYINFRA, ROOT, environment_of, pyinfra

pytestmark = pytest.mark.lab

DOCS = ROOT / "docs" / "host-tests.md"
SAMPLE = 4  # besides one of each kind
# The tests that are likely to tell come first, since a run ends with the first that fails.
FIRST = {
    "runtime": "runtimes",
    "shelf": "runtimes",
    "weights": "weights",
    "unit": "units",
    "unit-set": "units",
    "instance": "serving",
}
MODULES = ("base", "stamp", "units", "check", "serving", "weights", "runtimes", "gpus")


@dataclass(slots=True)
class Patient:
    """A converged host that is broken and mended, again and again."""

    lab: Lab
    layers: list[Path]
    inventory: Path
    host: Host = field(init=False)
    manifest: Manifest = field(init=False)
    kept: str = field(init=False, default="/root/kept")

    def __post_init__(self) -> None:
        self._boot()
        stamp = loads(self.host.root_run("cat /etc/mlx-hosts/stamp.json").stdout)
        assert stamp.applied is not None
        self.manifest = stamp.applied

    def _boot(self) -> None:
        self.host = self.lab.boot("patient", layers=self.layers)
        deadline = time.monotonic() + 180
        while self.host.root_run("systemctl is-active 'mlx-model@*'", check=False).returncode:
            assert time.monotonic() < deadline, "the model does not come up"
            time.sleep(0.5)
        told = subprocess.run(
            [PYINFRA, "inventories/lab.py", "debug-inventory", "--json"],
            cwd=ROOT,
            env={**os.environ, **environment_of(self.lab)},
            capture_output=True,
            check=True,
            timeout=120,
        )
        self.inventory.write_bytes(told.stdout)

    def failing(self, first: str = "base") -> list[str]:
        """Run the tests of the final state up to the first that fails; give its name."""
        modules = [first, *(module for module in MODULES if module != first)]
        files = [f"tests/host/test_{module}.py" for module in modules]
        where = ["--inventory", str(self.inventory), "--only", self.host.name]
        run = [sys.executable, "-m", "pytest", "-x", "-q", "--tb=short", "-p", "no:cacheprovider"]
        done = subprocess.run(
            [*run, *files, *where],
            cwd=ROOT,
            # No other plugin takes part, which halves the time.
            env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode in {0, 1}, done.stdout + done.stderr
        found = re.findall(
            r"^(?:FAILED|ERROR) tests/host/(\S+?)(?:\[|\s|$)", done.stdout, re.MULTILINE
        )
        assert bool(found) == bool(done.returncode), done.stdout
        return [name.replace(".py::", ": ") for name in found]

    def break_and_look(self, one: Break) -> list[str]:
        """Break it, give the name of the test that fails, and mend it."""
        keep = KEEP.get(one.kind, "true")
        path = one.resource.partition(":")[2]
        self.host.root_run(
            f"set -eu; rm -rf {self.kept}; mkdir {self.kept}; set -- {shlex.quote(path)}\n{keep}"
        )
        one.apply(self.host)
        failing = self.failing(FIRST.get(one.kind, "base"))
        print(f"{one.id}: {', '.join(failing) or 'NOT FOUND'}", flush=True)
        self._mend(one, path)
        return failing

    def _mend(self, one: Break, path: str) -> None:
        if one.kind in MEND:
            self.host.root_run(f"set -eu; set -- {shlex.quote(path)}\n{MEND[one.kind]}")
            self.host.root_run("systemctl daemon-reload")
        elif one.kind in PUT_BACK:
            for tree in (path, self._record(one)):
                put_back(self.layers[0] / tree.lstrip("/"), self.host.root / tree.lstrip("/"))
        # A directory of an overlay's lower layer is moved by copying it: what runs from it runs
        # deleted files from then on, though they are back.
        moved = one.kind in {"directory", "runtime"} and one.change in {
            "gone",
            "replaced by a link",
        }
        if one.kind in {*MEND, *PUT_BACK} and not moved:
            return
        # Not the quickest way, but one that cannot forget anything: it ends with a look at all.
        if pyinfra(self.lab, "-y", "--json", "--limit", self.host.name).returncode:
            self.host.destroy()
            self._boot()

    def _record(self, one: Break) -> str:
        (tree,) = [each for each in self.manifest if each.address == one.resource]
        assert isinstance(tree, Runtime | Weights)
        return str(tree.record)


def put_back(kept: Path, live: Path) -> None:
    """Make a tree, or a file, what it was: what is the same stays, for it may be in use."""
    moved = live.with_name(f"{live.name}.moved")
    if moved.exists():
        if live.is_symlink():
            live.unlink()
        moved.rename(live)
    if not kept.is_dir():
        _put_back(kept, live)
        return
    names = {path.relative_to(kept) for path in kept.rglob("*")}
    for path in sorted(live.rglob("*"), reverse=True):
        if path.relative_to(live) not in names:
            path.unlink()
    for name in sorted(names):
        if not (kept / name).is_dir() or (kept / name).is_symlink():
            _put_back(kept / name, live / name)
            if (kept / name).is_symlink() and str((kept / name).readlink()).startswith("../"):
                _put_back((kept / name).resolve(), (live / name).resolve())  # a blob


def _put_back(kept: Path, live: Path) -> None:
    if kept.is_symlink():
        if not live.is_symlink() or live.readlink() != kept.readlink():
            live.unlink(missing_ok=True)
            live.symlink_to(kept.readlink())
    elif kept.is_file():
        if live.is_symlink() or not live.exists() or kept.read_bytes() != live.read_bytes():
            live.unlink(missing_ok=True)
            shutil.copy2(kept, live)
        was = kept.stat()
        os.chown(live, was.st_uid, was.st_gid)
        live.chmod(was.st_mode)


# What is kept of a resource before it is broken, and how it is put back. Environments and weights
# are put back from the layers of the host, all else by a deploy.
KEEP = {
    "file": "cp -a $1 /root/kept/file",
    "user": "cp -a /etc/passwd /etc/shadow /etc/group /etc/gshadow /root/kept",
    "directory": "stat -c '%a %u:%g' $1 >/root/kept/mode",
}
PUT_BACK = {"runtime", "weights"}
MEND = {
    "file": "rm -rf $1 $1.moved; mv /root/kept/file $1",
    "user": "cp -a /root/kept/* /etc",
    "shelf": "rm -r $1/by-hand",
    "directory": (
        "if [ -e $1.moved ]; then rm -rf $1; mv $1.moved $1; fi; rm -rf $1/by-hand*\n"
        "read -r mode owner </root/kept/mode; chmod $mode $1; chown $owner $1"
    ),
}


def all_breaks(manifest: Manifest) -> list[Break]:
    """Every break of every resource; a stranger among the environments is ours to make."""
    strangers = [
        Break(
            kind=shelf.kind,
            resource=shelf.address,
            change="one added",
            script=f"mkdir {shelf.id}/by-hand",
            finding="",
            at=shelf.address,
        )
        for shelf in manifest
        if isinstance(shelf, Shelf)
    ]
    made = breaks(manifest)
    return made if any(one.kind == Shelf.kind for one in made) else [*made, *strangers]


@pytest.fixture(scope="module")
def patient(
    lab: Lab, converged: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Patient]:
    """One host for all breaks: found well before the first, and after the last."""
    made = Patient(lab, converged, tmp_path_factory.mktemp("patient") / "inventory.json")
    assert made.failing() == []
    yield made
    assert made.failing() == []
    made.host.destroy()


def test_one_break_of_each_kind_is_found(patient: Patient, seed: int) -> None:
    """One of each kind and a few more, others with another seed."""
    chooser = random.Random(seed)
    made = all_breaks(patient.manifest)
    by_kind: dict[str, list[Break]] = {}
    for one in made:
        by_kind.setdefault(one.kind, []).append(one)
    chosen = [chooser.choice(of_kind) for of_kind in by_kind.values()]
    chosen += chooser.sample(made, SAMPLE)
    missed = [one.id for one in chosen if not patient.break_and_look(one)]
    assert missed == []


@pytest.mark.soak
def test_every_break_is_found(patient: Patient) -> None:
    """Every break of every resource; the table in docs/host-tests.md is written from it."""
    found: dict[str, list[str]] = {}
    made = all_breaks(patient.manifest)
    for one in made:
        found[one.id] = patient.break_and_look(one)
    write_table(made, found)
    assert [name for name, failing in found.items() if not failing] == []


def test_every_kind_of_resource_is_broken(patient: Patient) -> None:
    """No kind of resource in a host's manifest is forgotten by the breaks."""
    broken = {one.kind for one in all_breaks(patient.manifest)}
    assert broken == {resource.kind for resource in patient.manifest}


def write_table(made: Iterable[Break], found: dict[str, list[str]]) -> None:
    """Write, into docs/host-tests.md, which test tells of each kind of change to each kind."""
    rows: dict[tuple[str, str], list[Break]] = {}
    for one in made:
        if one.id in found:
            rows.setdefault((one.kind, one.change), []).append(one)
    lines = ["| resource | change | found | by |", "|---|---|---|---|"]
    for (kind, change), ones in rows.items():
        tests = sorted({f"`{name}`" for one in ones for name in found[one.id]})
        count = sum(bool(found[one.id]) for one in ones)
        lines.append(f"| {kind} | {change} | {count} of {len(ones)} | {', '.join(tests)} |")
    text = DOCS.read_text(encoding="utf-8")
    begin, end = "<!-- breaks -->\n", "<!-- end of breaks -->"
    before, _, rest = text.partition(begin)
    after = rest.partition(end)[2]
    DOCS.write_text(before + begin + "\n".join([*lines, ""]) + end + after, encoding="utf-8")
