"""What the host checks itself with: the checkout's own program, on a timer that runs."""

from __future__ import annotations

import ast
import hashlib
import json
import shlex
from pathlib import Path, PurePosixPath

from testinfra.host import Host

from tests.host.declared import ROOT, Declared
from tests.host.test_units import owned_text, rendered, show

CHECK = "/opt/mlx-hosts/check"
START = ROOT / "facts/on_host.py"
RUN = ("tree_program.py", "probe_program.py")  # by their paths: no import tells of them
# Everything is imported, nothing is run.
IMPORT = (
    f"import runpy, sys; sys.path[:0] = [{CHECK!r}]; runpy.run_path({CHECK!r} + '/__main__.py')"
)


def imported(module: Path) -> set[Path]:
    """Give the checkout's modules that a module imports, and those that they do, their packages."""
    found, pending = set[Path](), [module]
    while pending:
        for node in ast.walk(ast.parse(pending.pop().read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                folder = ROOT / node.module.replace(".", "/")
                names = (f"{folder}.py", *(folder / f"{alias.name}.py" for alias in node.names))
                new = {Path(name) for name in names if Path(name).exists()} - found
                found |= new | {one.with_name("__init__.py") for one in new}
                pending += new
    return found


def program() -> dict[str, bytes]:
    """Give every file of it by its name on the host."""
    modules = {str(path.relative_to(ROOT)): path for path in imported(START)}
    files = {"__main__.py": START, **{name: ROOT / "facts" / name for name in RUN}, **modules}
    return {name: path.read_bytes() for name, path in files.items()}


def test_the_program_is_the_checkouts(host: Host) -> None:
    """Every file of it is the checkout's to the byte, root's; none is missing, none besides."""
    found = host.check_output("find %s -type f -exec sha256sum {} +", CHECK).splitlines()
    files = {path.removeprefix(f"{CHECK}/"): digest for digest, path in map(str.split, found)}
    assert files == {name: hashlib.sha256(text).hexdigest() for name, text in program().items()}
    others = host.check_output("find %s -mindepth 1 ! -type f", CHECK).splitlines()
    folders = {str(folder) for name in files for folder in PurePosixPath(name).parents} - {"."}
    assert {path.removeprefix(f"{CHECK}/") for path in others} == folders
    loose = (
        "find %s ! '(' -user root -group root '(' -type f -perm 644 -o -type d -perm 755 ')' ')'"
    )
    assert host.check_output(loose, CHECK) == ""
    done = host.run("python3 -IB -c %s", IMPORT)
    assert done.rc == 0, done.stderr


def test_the_timer_runs_and_will_again(host: Host) -> None:
    """It is up, comes back at boot, comes from our file alone, and was not edited since."""
    timer = "mlx-drift.timer"
    assert show(
        host,
        timer,
        "ActiveState",
        "UnitFileState",
        "FragmentPath",
        "DropInPaths",
        "NeedDaemonReload",
    ) == {
        "ActiveState": "active",
        "UnitFileState": "enabled",
        "FragmentPath": f"/etc/systemd/system/{timer}",
        "DropInPaths": "",
        "NeedDaemonReload": "no",
    }


def test_its_units_are_the_checkouts(host: Host, declared: Declared) -> None:
    """Service and timer are the templates, with the host's Python filled in."""
    folder = "/etc/systemd/system"
    assert owned_text(host, f"{folder}/mlx-drift.timer") == rendered("mlx-drift.timer")
    text = owned_text(host, f"{folder}/mlx-drift.service")
    (start,) = [line for line in text.splitlines() if line.startswith("ExecStart=")]
    given = shlex.split(start.partition("=")[2])[0]
    named = declared.data.get("site", {}).get("python")
    assert given == named or (named is None and given.endswith("python3"))
    assert text == rendered("mlx-drift.service", python=given, checker=CHECK)
    loaded = show(host, "mlx-drift.service", "LoadState", "DropInPaths", "NeedDaemonReload")
    assert loaded == {"LoadState": "loaded", "DropInPaths": "", "NeedDaemonReload": "no"}


def test_what_is_tolerated_is_the_inventorys(host: Host, declared: Declared) -> None:
    """The host lets pass what the inventory says, and nothing else."""
    text = owned_text(host, "/etc/mlx-hosts/tolerated.json")
    tolerated = json.loads(text)
    assert text == json.dumps(tolerated, indent=1) + "\n"
    assert len(tolerated) == len(declared.data.get("tolerated") or ())
