"""What each operation would tell a host, for every way in which the host may differ."""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest
from pyinfra.api import FunctionCommand, StringCommand
from pyinfra.api.hiddenvalue import HiddenValue

from manifest.difference import diff
from manifest.manifest import Manifest
from manifest.resources import (
    Directory,
    File,
    Hold,
    Instance,
    Package,
    Resource,
    Runtime,
    Unit,
    UnitSet,
    User,
    Weights,
)
from manifest.runtime import Interpreter, environment
from manifest.weights import Blob, directory, snapshot
from operations import files, instances, packages, runtimes, units, users, weights
from operations.convergence import Comparison
from operations.records import renewing

Change = Callable[[Comparison], Iterable[Any]]


def compared(expected: Iterable[Resource], actual: Iterable[Resource]) -> Comparison:
    expected, found = tuple(expected), Manifest(tuple(actual))
    return Comparison(expected, found, diff(expected, found))


def told(changes: Change, expected: Iterable[Resource], actual: Iterable[Resource]) -> list[str]:
    """Give the commands in short: programs as they are, a script as its arguments."""
    return [_short(one) for one in changes(compared(expected, actual))]


def _short(command: StringCommand | FunctionCommand) -> str:
    assert isinstance(command, StringCommand)
    words = shlex.split(command.get_raw_value())
    if words[:2] == ["sh", "-c"]:
        program = next(
            name for name, text in SCRIPTS.items() if words[2] == text or words[2].startswith(text)
        )
        words = [f"<{program}>", *words[4:]]
    return " ".join(words)


SCRIPTS = {
    "write": files.WRITE,
    "make": 'if [ -L "$1" ] || [ ! -d "$1" ]',
    "own": 'chown -h "$2" "$1"',
    "present": users.PRESENT,
    "install": packages.INSTALL,
    "hold": "apt-mark hold",
    "start": units.START,
    "reset": "if systemctl is-failed",
    "aside": 'rm -rf -- "$1" "$3"',
    "put": 'umask 022; base64 -d >"$1"',
    "download": runtimes.WITH_ENVIRONMENT,
    "unpack": "umask 022; base64 -d | tar",
    "clear": 'rm -rf -- "$1.cache"',
    "forget": "rm -f -- ",
}
TEXT = "text\n"
SUM = hashlib.sha256(TEXT.encode()).hexdigest()
FILE = File(path="/etc/x/a.conf", sha256=SUM)
FOLDER = Directory(path="/etc/x", entries=("a.conf",))
USER = User(name="mlx", home="/var/lib/x", shell="/usr/sbin/nologin", groups=())
UNIT = Unit(
    name="m@a.0.service",
    enabled="enabled",
    active="active",
    fragment="/etc/systemd/system/m@.service",
    drop_ins=("/etc/systemd/system/m@a.0.service.d/10.conf",),
)
# Nobody starts it but its timer.
TIMED = Unit(name="t.service", enabled="static", fragment="/etc/systemd/system/t.service")
INSTANCE = Instance(name="a.0", inputs="1" * 64)
UNIT_1, RANK_1 = replace(UNIT, name="m@a.0.1.service"), replace(INSTANCE, name="a.0.1")
MASK = [
    "rm -rf -- /etc/systemd/system/m@a.0.service",
    "rm -rf -- /run/systemd/system/m@a.0.service",
]


def changes_of_files(comparison: Comparison) -> Iterable[Any]:
    return files.changes(comparison, {FILE.path: TEXT})


CASES: dict[str, tuple[Change, list[Resource], list[Resource], list[str]]] = {
    "a file that is missing": (
        changes_of_files,
        [FILE],
        [],
        [f"<write> /etc/x/a.conf {SUM} root:root 0644"],
    ),
    "a file of another content and mode": (
        changes_of_files,
        [FILE],
        [replace(FILE, sha256="0", mode="0777")],
        [f"<write> /etc/x/a.conf {SUM} root:root 0644"],
    ),
    "a file of another owner": (
        changes_of_files,
        [FILE],
        [replace(FILE, owner="eve")],
        ["<own> /etc/x/a.conf root:root 0644"],
    ),
    "a directory that is missing": (
        changes_of_files,
        [FOLDER],
        [],
        ["<make> /etc/x", "<own> /etc/x root:root 0755"],
    ),
    "a directory replaced by a link, behind which all is right": (
        changes_of_files,
        [FOLDER, FILE],
        [replace(FOLDER, instead="link"), FILE],
        [
            "<make> /etc/x",
            "<own> /etc/x root:root 0755",
            f"<write> /etc/x/a.conf {SUM} root:root 0644",
        ],
    ),
    "a directory of another mode": (
        changes_of_files,
        [FOLDER],
        [replace(FOLDER, mode="0777")],
        ["<own> /etc/x root:root 0755"],
    ),
    "strangers in a directory": (
        changes_of_files,
        [FOLDER],
        [replace(FOLDER, entries=("a.conf", "b c", "z"))],
        ["rm -rf -- /etc/x/b c", "rm -rf -- /etc/x/z"],
    ),
    "a file that lacks in its directory's list alone": (
        changes_of_files,
        [FOLDER],
        [replace(FOLDER, entries=())],
        [],
    ),
    "a user that is missing": (
        users.changes,
        [USER],
        [],
        ["<present> mlx /var/lib/x /usr/sbin/nologin "],
    ),
    "a user of another shell": (
        users.changes,
        [USER],
        [replace(USER, shell="/bin/bash")],
        ["<present> mlx /var/lib/x /usr/sbin/nologin "],
    ),
    "packages, one of them there": (
        packages._install,  # noqa: SLF001
        [Package(name="a"), Package(name="b")],
        [Package(name="a")],
        ["<install> b"],
    ),
    "packages that are not held": (
        packages._hold,  # noqa: SLF001
        [Hold(pattern="nvidia-.*")],
        [Hold(pattern="nvidia-.*", unheld=("nvidia-a", "nvidia-b:i386"))],
        ["<hold> nvidia-a nvidia-b:i386"],
    ),
    "a unit that is not there": (
        units._run,  # noqa: SLF001
        [UNIT],
        [],
        [
            "systemctl daemon-reload",
            "systemctl reenable --quiet m@a.0.service",
            "<start> start m@a.0.service",
        ],
    ),
    "a unit that stands still": (
        units._run,  # noqa: SLF001
        [UNIT],
        [replace(UNIT, active="inactive")],
        ["systemctl daemon-reload", "<start> start m@a.0.service"],
    ),
    "a unit that is masked": (
        units._run,  # noqa: SLF001
        [UNIT],
        [replace(UNIT, enabled="masked", fragment="")],
        [
            *MASK,
            "systemctl daemon-reload",
            "systemctl reenable --quiet m@a.0.service",
            "<start> start m@a.0.service",
        ],
    ),
    "a unit with a stranger's drop-in": (
        units._run,  # noqa: SLF001
        [UNIT],
        [replace(UNIT, drop_ins=(*(UNIT.drop_ins or ()), "/run/systemd/system/m@a.0.service.d/9"))],
        ["rm -rf -- /run/systemd/system/m@a.0.service.d/9", "systemctl daemon-reload"],
    ),
    "a unit edited since it was loaded": (
        units._run,  # noqa: SLF001
        [UNIT],
        [replace(UNIT, stale=True)],
        ["systemctl daemon-reload"],
    ),
    "a service of a timer's that is not there": (
        units._run,  # noqa: SLF001
        [TIMED],
        [],
        ["systemctl daemon-reload"],
    ),
    "a service of a timer's, masked and edited since it was loaded": (
        units._run,  # noqa: SLF001
        [TIMED],
        [replace(TIMED, enabled="masked", stale=True)],
        ["rm -rf -- /run/systemd/system/t.service", "systemctl daemon-reload"],
    ),
    "an instance that nobody declares": (
        units._end_others,  # noqa: SLF001
        [UnitSet(pattern="m@*", names=("m@a.0.service",))],
        [UnitSet(pattern="m@*", names=("m@a.0.service", "m@b.0.service"))],
        [
            "systemctl disable --now --quiet m@b.0.service",
            "rm -rf -- /etc/systemd/system/m@b.0.service.d",
            "<reset> m@b.0.service",
        ],
    ),
    "an instance that is not up yet": (
        units._end_others,  # noqa: SLF001
        [UnitSet(pattern="m@*", names=("m@a.0.service",))],
        [UnitSet(pattern="m@*", names=())],
        [],
    ),
    "an instance of other inputs": (
        instances._start,  # noqa: SLF001
        [UNIT, INSTANCE],
        [UNIT, replace(INSTANCE, inputs="2" * 64)],
        ["<start> restart m@a.0.service"],
    ),
    "an instance that runs what was deleted": (
        instances._start,  # noqa: SLF001
        [UNIT, INSTANCE],
        [UNIT, replace(INSTANCE, deleted=True)],
        ["<start> restart m@a.0.service"],
    ),
    "an instance on its way up with the right inputs": (
        instances._start,  # noqa: SLF001
        [UNIT, INSTANCE],
        [replace(UNIT, active="activating"), replace(INSTANCE, state="loading")],
        ["systemctl daemon-reload", "<start> start m@a.0.service"],
    ),
    "an instance that runs while its unit is masked": (  # systemd is deaf to it, and will kill it
        instances._start,  # noqa: SLF001
        [UNIT, INSTANCE],
        [replace(UNIT, enabled="masked-runtime", fragment=""), INSTANCE],
        [
            *MASK,
            "systemctl daemon-reload",
            "systemctl reenable --quiet m@a.0.service",
            "<start> restart m@a.0.service",
        ],
    ),
    "instances that trade their GPUs, beside one that does not": (
        instances._part,  # noqa: SLF001
        [
            replace(INSTANCE, gpus=("GPU-1",)),
            replace(INSTANCE, name="b.0", gpus=("GPU-0",)),
            replace(INSTANCE, name="c.0", gpus=("GPU-2",)),
        ],
        [
            replace(INSTANCE, gpus=("GPU-0",), inputs="2" * 64),
            replace(INSTANCE, name="b.0", gpus=("GPU-1",), inputs="2" * 64),
            replace(INSTANCE, name="c.0", gpus=("GPU-2",), inputs="2" * 64),
        ],
        ["systemctl stop mlx-model@a.0.service mlx-model@b.0.service"],
    ),
    "an instance that gets more of its GPU, beside one that is not there": (
        instances._part,  # noqa: SLF001
        [replace(INSTANCE, planned_bytes=2), replace(INSTANCE, name="b.0", planned_bytes=2)],
        [replace(INSTANCE, planned_bytes=1)],
        ["systemctl stop mlx-model@a.0.service"],
    ),
    "one rank of two, of other inputs": (
        instances._start,  # noqa: SLF001
        [UNIT, INSTANCE, UNIT_1, RANK_1],
        [UNIT, INSTANCE, UNIT_1, replace(RANK_1, inputs="2" * 64)],
        ["<start> restart m@a.0.service m@a.0.1.service"],
    ),
    "one rank of two stopped": (
        instances._start,  # noqa: SLF001
        [UNIT, INSTANCE, UNIT_1, RANK_1],
        [UNIT, INSTANCE, replace(UNIT_1, active="inactive"), RANK_1],
        ["systemctl daemon-reload", "<start> start m@a.0.service m@a.0.1.service"],
    ),
    "an instance that is right, its unit disabled": (
        instances._start,  # noqa: SLF001
        [UNIT, INSTANCE],
        [replace(UNIT, enabled="disabled"), INSTANCE],
        ["systemctl daemon-reload", "systemctl reenable --quiet m@a.0.service"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_differs_is_changed_and_nothing_else(name: str) -> None:
    """The commands for one difference, in their order."""
    changes, expected, actual, commands = CASES[name]
    assert told(changes, expected, actual) == commands


@pytest.mark.parametrize("name", CASES)
def test_where_nothing_differs_nothing_is_told(name: str) -> None:
    """A host that is as declared shows no difference, and so no operation has a command for it."""
    _, expected, _, _ = CASES[name]
    assert compared(expected, expected).differences == ()


def test_a_files_text_goes_by_standard_input() -> None:
    """Neither a list of processes nor a log shows it, and it arrives as it is."""
    (command,) = changes_of_files(compared([FILE], []))
    assert TEXT not in command.get_raw_value()
    stdin = command.connector_arguments["_stdin"]
    assert base64.b64decode(stdin) == TEXT.encode()


PYTHON = Interpreter(path="/usr/bin/python3", version="3.11.2", architecture="x86_64")
SECRET = "http://me:secret@proxy"


def build(uv: str | None, **source: str) -> list[Any]:
    made = environment("/opt/x/runtimes", "a==1", PYTHON, source=source)
    changes = runtimes.changes
    site = {"HTTPS_PROXY": SECRET}
    return list(changes(compared([made.resource()], []), environment=made, uv=uv, site=site))


@pytest.mark.parametrize("uv", [None, "/opt/x/tools/uv"])
def test_a_build_ends_with_its_record(uv: str | None) -> None:
    """The old record goes first and the new one is written last, with hashes required between."""
    commands = build(uv, **{"guard/app.py": "x = 1\n"})
    texts = [command.get_raw_value() for command in commands]
    assert "rm -rf" in texts[0]
    assert "records/runtimes-" in texts[0]
    assert texts[-1] == "python3 -I -"
    assert "seal_runtime(" in commands[-1].connector_arguments["_stdin"]
    assert sum("--require-hashes" in text for text in texts) == 1


@pytest.mark.parametrize("uv", [None, "/opt/x/tools/uv"])
def test_whatever_is_built_is_open_to_its_users(uv: str | None) -> None:
    """Whatever root's umask is; what only removes, or seals, has no use for one."""
    for command in build(uv, **{"guard/app.py": "x = 1\n"}):
        text = command.get_raw_value()
        assert "umask 022" in text or "rm -rf" in text or text == "python3 -I -"


def test_a_proxys_password_is_in_no_process_list() -> None:
    """What a site's downloads need goes by standard input."""
    for command in (*build(None), *build("/opt/x/tools/uv")):
        assert SECRET not in command.get_raw_value()


TREES: dict[str, tuple[dict[str, Any], str]] = {
    "times that moved": ({"retimed": True}, "renewed"),
    "files that there was no time to read": ({"changed": ("unread: a", "unread: b")}, "renewed"),
    "both": ({"retimed": True, "changed": ("unread: a",)}, "renewed"),
    "another content": ({"retimed": True, "changed": ("unread: a", "content: b")}, "made"),
    "other packages": ({"retimed": True, "packages": "2"}, "made"),
}


@pytest.mark.parametrize("case", TREES)
def test_a_tree_is_made_anew_for_what_changed_and_not_for_its_times(case: str) -> None:
    """An environment in use stays where it is when a backup has linked to its files."""
    attributes, what = TREES[case]
    tree = Runtime(path="/opt/x/r", record="/opt/x/r.json", packages="1")
    expected, found = replace(tree, retimed=False), replace(tree, **attributes)
    made = lambda _: iter([StringCommand("made")])  # noqa: E731
    commands = renewing(compared([expected], [found]), "runtime", tree, made)
    first = next(commands)
    assert isinstance(first, StringCommand)
    if what == "made":
        assert first.get_raw_value() == "made"
        return
    assert "\nrenew(" in first.connector_arguments["_stdin"]
    if "changed" not in attributes:
        assert list(commands) == []


def test_times_that_moved_are_nobodys_drift() -> None:
    """What is declared says nothing of them: only the operation asks."""
    tree = Runtime(path="/opt/x/r", record="/opt/x/r.json", packages="1")
    assert diff([tree], [replace(tree, retimed=True)]) == ()


MODEL = snapshot("a/b", "0" * 40, (Blob(path="config.json", size=3, hash="git:00"),))


def fetch(model: Any, actual: Iterable[Resource] = ()) -> list[Any]:
    return list(
        weights.changes(
            compared([model.resource()], actual),
            snapshot=model,
            runtime="/opt/x/runtimes/1",
            endpoint="http://hub",
            token=HiddenValue("hf_secret"),
            site={},
        )
    )


def test_a_token_is_in_no_process_list() -> None:
    """It goes by standard input, with the program that uses it."""
    forget, run = fetch(MODEL)
    assert _short(forget) == f"<forget> {MODEL.record}"
    assert "hf_secret" not in run.get_raw_value()
    assert "hf_secret" in run.connector_arguments["_stdin"]


def test_a_directory_of_somebody_elses_is_only_recorded() -> None:
    """Nothing is fetched where the model is said to be on the host already."""
    _, run = fetch(directory("/srv/model", MODEL.blobs))
    stdin = run.connector_arguments["_stdin"]
    assert "\nrecord_directory(" in stdin
    assert "\nfetch(" not in stdin


def test_weights_found_as_recorded_differ_in_nothing() -> None:
    """What the probe finds of whole weights equals what is declared."""
    found = Weights(path=MODEL.path, record=MODEL.record, files=MODEL.files, changed=())
    assert compared([MODEL.resource()], [found]).differences == ()
