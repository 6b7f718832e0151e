"""The programs that seal a tree and look at it again, run for real on trees of this machine."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyinfra.api.exceptions import FactProcessError

from facts.probe import TIMEOUT, TREE, parse, question
from manifest.locks import contents
from manifest.resources import Directory, File, Hold, Package, Runtime, User, Weights
from operations.records import SEAL
from operations.weights import FETCH

WHEEL = {"demo/__init__.py": "x = 1\n", "demo/data.bin": "0123456789abcdef" * 64}
METADATA = "Metadata-Version: 2.1\nName: De.mo\nVersion: 1.0\n\nA package.\n"


def python(program: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a program as a host does: on standard input, isolated."""
    return subprocess.run(
        [sys.executable, "-I", "-"],
        input=program,
        capture_output=True,
        text=True,
        timeout=60,
        check=check,
    )


def looked_at(*expected: Any, deep: bool = False) -> list[dict[str, Any]]:
    """Give what the probe finds in the place of resources, as JSON objects."""
    answer = parse(python(question(expected, deep=deep)).stdout)
    assert answer.problems == ()
    plain: list[dict[str, Any]] = json.loads(json.dumps(answer.manifest.to_json()))
    return plain


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """A virtual environment with one package in it, as an installer leaves it."""
    site = tmp_path / "env" / "lib" / "python3.11" / "site-packages"
    info = site / "de_mo-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "demo").mkdir()
    for name, text in WHEEL.items():
        (site / name).write_text(text)
    (info / "METADATA").write_text(METADATA)
    record(site)
    (tmp_path / "env" / "pyvenv.cfg").write_text("home = /usr/bin\n")
    (tmp_path / "env" / "lib64").symlink_to("lib")
    return tmp_path / "env"


def record(site: Path) -> None:
    """Write the package's RECORD."""
    lines = []
    for name, text in WHEEL.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode()
        lines.append(f"{name},sha256={digest.rstrip('=')},{len(text)}")
    lines += ["de_mo-1.0.dist-info/METADATA,,", "de_mo-1.0.dist-info/RECORD,,"]
    (site / "de_mo-1.0.dist-info" / "RECORD").write_text("\n".join([*lines, ""]))


def seal(environment: Path, *, lock: str = "de-mo==1.0", own: tuple[str, ...] = ()) -> str:
    """Seal the environment; give what the program says against it, empty where it is sealed."""
    expected = contents(lock, python="3.11.2", architecture="x86_64")
    record_path = f"{environment}.json"
    call = f"seal_runtime({str(environment)!r}, {record_path!r}, {expected!r}, {list(own)!r})"
    done = python(f"{TREE}\n{SEAL}\n{call}\n", check=False)
    assert bool(done.returncode) == bool(done.stderr) == (not Path(record_path).exists())
    return done.stderr


def as_resource(environment: Path, **attributes: Any) -> Runtime:
    return Runtime(path=str(environment), record=f"{environment}.json", **attributes)


def changed(environment: Path, *, deep: bool = False) -> list[str]:
    (found,) = looked_at(as_resource(environment), deep=deep)
    return list(found["changed"])


def site_of(environment: Path) -> Path:
    return environment / "lib" / "python3.11" / "site-packages"


def test_an_environment_as_locked_is_sealed(environment: Path) -> None:
    """What is as its records and the lock say is sealed, and found unchanged, deep or not."""
    assert seal(environment) == ""
    assert (changed(environment), changed(environment, deep=True)) == ([], [])
    (found,) = looked_at(as_resource(environment))
    assert found["packages"] == contents("de-mo==1.0", python="3.11.2", architecture="x86_64")


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda site: (site / "demo/data.bin").write_text("f" * 1024), "altered: demo/data.bin"),
        (lambda site: (site / "demo/__init__.py").unlink(), "missing: demo/__init__.py"),
        (lambda site: (site / "stray.py").write_text(""), "of no package: stray.py"),
        (lambda site: (site / "demo/stray.so").write_text(""), "of no package: demo/stray.so"),
        (lambda site: (site / "stray.pth").write_text("import os\n"), "of no package: stray.pth"),
        (
            lambda site: (site / "demo").chmod(0o750),
            "closed to other users: lib/python3.11/site-packages/demo",
        ),
    ],
)
def test_what_is_not_as_its_package_made_it_is_not_sealed(
    environment: Path, spoil: Callable[[Path], object], complaint: str
) -> None:
    """A tampered, a missing and a stray file are each named, and there is no record then."""
    spoil(site_of(environment))
    assert complaint in seal(environment)


@pytest.mark.parametrize("lock", ["de-mo==1.1", "de-mo==1.0\nother==1", "other==1", ""])
def test_other_packages_than_the_locks_are_not_sealed(environment: Path, lock: str) -> None:
    """Another version, one missing, one too many: none of these is sealed."""
    assert "packages: expected other ones than de-mo==1.0" in seal(environment, lock=lock)


def test_our_own_sources_belong_in_it(environment: Path) -> None:
    """Files that we put there ourselves are of no package and no strangers."""
    (site_of(environment) / "guard").mkdir()
    (site_of(environment) / "guard/app.py").write_text("")
    assert "of no package: guard/app.py" in seal(environment)
    assert seal(environment, own=("guard/app.py",)) == ""


def _keeping_times(path: Path, change: Callable[[Path], object]) -> None:
    before = path.stat()
    change(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "content": (lambda path: path.write_text("y = 2\n"), "content"),
    "content, size and time kept": (
        lambda path: _keeping_times(path, lambda one: one.write_text("x = 2\n")),
        "content",
    ),
    "mode": (lambda path: path.chmod(0o777), "mode"),
    "gone": (lambda path: path.unlink(), "removed"),
    "a link in its place": (
        lambda path: (path.rename(f"{path}.0"), path.symlink_to(f"{path}.0")),
        "link",
    ),
    "written again, the same": (lambda path: path.write_text("x = 1\n"), ""),
    "touched": (lambda path: path.touch(), ""),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_found_by_what_it_leaves(environment: Path, change: str) -> None:
    """Content is found by its change time, which nobody can set; what is the same is no change."""
    assert seal(environment) == ""
    make, word = CHANGES[change]
    make(site_of(environment) / "demo/__init__.py")
    named = [one for one in changed(environment) if one.endswith("demo/__init__.py")]
    expected = [f"{word}: lib/python3.11/site-packages/demo/__init__.py"] if word else []
    assert named == expected


def test_strangers_and_links_are_found(environment: Path) -> None:
    """What was added anywhere in the tree, and a link that leads elsewhere."""
    assert seal(environment) == ""
    (environment / "by-hand").write_text("")
    (environment / "lib64").unlink()
    (environment / "lib64").symlink_to("/tmp")
    assert sorted(changed(environment)) == ["added: by-hand", "link: lib64"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_another_owner_is_found(environment: Path) -> None:
    """A file given to somebody else is one that somebody else can change."""
    assert seal(environment) == ""
    os.chown(environment / "pyvenv.cfg", 65534, -1)
    assert changed(environment) == ["mode: pyvenv.cfg"]


def test_only_a_deep_look_reads_what_seems_the_same(environment: Path) -> None:
    """A disk that returns other bytes under the same change time: the deep look reads them all."""
    assert seal(environment) == ""
    record_path = Path(f"{environment}.json")
    told = json.loads(record_path.read_text())
    entry = told["tree"]["pyvenv.cfg"]
    told["tree"]["pyvenv.cfg"] = [*entry[:-1], "0" * 64]  # as if the content had been another
    record_path.write_text(json.dumps(told))
    assert changed(environment) == []
    assert changed(environment, deep=True) == ["content: pyvenv.cfg"]


def renew(tree: Path, *, follow: bool = False) -> None:
    """Have the record of a tree made anew where nothing but times has moved."""
    python(f"{TREE}\n{SEAL}\nrenew({str(tree)!r}, '{tree}.json', {follow})\n")


def test_times_that_moved_are_told_and_recorded_once(environment: Path) -> None:
    """Linked to by a backup, a file is read at every look, until its new times are recorded."""
    assert seal(environment) == ""
    (found,) = looked_at(as_resource(environment))
    assert (found["changed"], found["retimed"]) == ([], False)
    file = site_of(environment) / "demo/__init__.py"
    (environment.parent / "backup").hardlink_to(file)
    (found,) = looked_at(as_resource(environment))
    assert (found["changed"], found["retimed"]) == ([], True)
    renew(environment)
    (found,) = looked_at(as_resource(environment))
    assert (found["changed"], found["retimed"]) == ([], False)
    _keeping_times(file, lambda one: one.write_text("x = 2\n"))
    assert changed(environment) == ["content: lib/python3.11/site-packages/demo/__init__.py"]


@pytest.mark.parametrize("change", ["content, size and time kept", "mode", "gone"])
def test_a_record_is_not_renewed_for_what_changed(environment: Path, change: str) -> None:
    """Whatever else moved its times: a record never comes to say what its seal did not."""
    assert seal(environment) == ""
    before = Path(f"{environment}.json").read_text()
    (environment / "pyvenv.cfg").touch()
    make, _ = CHANGES[change]
    make(site_of(environment) / "demo/__init__.py")
    renew(environment)
    assert Path(f"{environment}.json").read_text() == before


def test_what_takes_too_long_is_said_to_be_unread(environment: Path) -> None:
    """The probe answers before pyinfra gives it up; what is as recorded needs no reading."""
    assert seal(environment) == ""
    (environment / "pyvenv.cfg").touch()
    asked = question([as_resource(environment)])
    assert f'"seconds": {TIMEOUT / 2}' in asked
    asked = asked.replace(f'"seconds": {TIMEOUT / 2}', '"seconds": -1')
    (found,) = parse(python(asked).stdout).manifest
    assert (found.changed, found.retimed) == (("unread: pyvenv.cfg",), False)  # type: ignore[attr-defined]  # a runtime


def test_without_a_record_there_is_no_environment(environment: Path) -> None:
    """What a build that died left behind counts for nothing."""
    assert looked_at(as_resource(environment)) == []
    assert seal(environment) == ""
    (environment / "pyvenv.cfg").rename(environment / "x")
    Path(f"{environment}.json").unlink()
    assert looked_at(as_resource(environment)) == []


# -- the probe on plain things


def test_files_and_directories_as_they_are(tmp_path: Path) -> None:
    """Mode, owner, digest and entries; a link is neither a file nor a directory."""
    file, folder = tmp_path / "file", tmp_path / "folder"
    file.write_text("text\n")
    file.chmod(0o640)
    folder.mkdir(mode=0o700)
    (folder / "b").touch()
    (folder / "a").mkdir()
    found = looked_at(
        File(path=str(file)), Directory(path=str(folder), entries=()), Directory(path="/proc/none")
    )
    assert [(one["kind"], one["mode"]) for one in found] == [
        ("file", "0640"),
        ("directory", "0700"),
    ]
    assert found[0]["sha256"].startswith("b9e68e1bea3e5b19")
    assert found[1]["entries"] == ["a", "b"]
    (tmp_path / "link").symlink_to(folder)
    for kind in (File, Directory):
        assert [one for one in looked_at(kind(path=str(tmp_path / "link"))) if "mode" in one] == []


def test_users_as_they_are() -> None:
    """A user that is there, and one that is not."""
    (root,) = looked_at(User(name="root"), User(name="nobody-of-that-name"))
    assert (root["home"], root["groups"]) == ("/root", root["groups"])


# NVIDIA's libraries for two architectures, of which apt held the host's own; one that was removed.
DPKG = """\
Package: libnvidia-compute-580
Status: hold ok installed
Architecture: amd64
Multi-Arch: same
Version: 1

Package: libnvidia-compute-580
Status: install ok installed
Architecture: i386
Multi-Arch: same
Version: 1

Package: nvidia-driver-580
Status: install ok installed
Architecture: amd64
Version: 1

Package: nvidia-driver-libs
Status: install ok installed
Architecture: i386
Version: 1

Package: libnvidia-gl-580
Status: deinstall ok config-files
Architecture: i386
Multi-Arch: same
Version: 1
"""


@pytest.mark.skipif(shutil.which("dpkg-query") is None, reason="no dpkg here to be asked")
def test_a_package_of_two_architectures_is_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that is not held is named as apt takes it; what is installed goes by its name."""
    (tmp_path / "status").write_text(DPKG)
    (tmp_path / "arch").write_text("amd64\ni386\n")
    monkeypatch.setenv("DPKG_ADMINDIR", str(tmp_path))
    hold, *packages = looked_at(
        Hold(pattern="(lib)?nvidia-.*"),
        *(Package(name=name) for name in ("libnvidia-compute-580", "libnvidia-gl-580", "other")),
    )
    assert hold["unheld"] == [
        "libnvidia-compute-580:i386",
        "nvidia-driver-580",
        "nvidia-driver-libs:i386",
    ]
    assert [one["name"] for one in packages] == ["libnvidia-compute-580"]


def test_what_cannot_be_read_hides_nothing_else(tmp_path: Path) -> None:
    """A record that is torn is a problem, told beside everything that could be read."""
    (tmp_path / "env").mkdir()
    torn = Path(f"{tmp_path}/env.json")
    torn.write_text('{"tree": ')
    expected = [as_resource(tmp_path / "env"), Directory(path=str(tmp_path))]
    answer = parse(python(question(expected)).stdout)
    assert [one.kind for one in answer.manifest] == ["directory"]
    (problem,) = answer.problems
    assert problem.startswith("runtime: ")


@pytest.mark.parametrize(
    "text", ["", "Segmentation fault", "[]", "{}", '{"resources": [{"kind": "cathedral"}]', "\x00"]
)
def test_what_is_no_answer_is_not_read_as_one(text: str) -> None:
    """A probe that died, or one of another version, decides nothing: the line it gave is shown."""
    with pytest.raises(FactProcessError, match="probe: no answer"):
        parse(text)


# -- weights


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    """A model in the hub cache's layout: two files, one large (SHA-256), one small (git's)."""
    top = tmp_path / "hub" / "models--a--b"
    made = top / "snapshots" / "c0"
    made.mkdir(parents=True)
    (top / "blobs").mkdir()
    for name, blob, text in (("model.safetensors", "b1", "weights"), ("config.json", "b2", "{}\n")):
        (top / "blobs" / blob).write_text(text)
        (made / name).symlink_to(f"../../blobs/{blob}")
    return made


# As a hub gives them: SHA-256 for a large file, git's blob id for a small one.
WEIGHTS = hashlib.sha256(b"weights").hexdigest()
CONFIG = hashlib.sha1(b"blob 3\0{}\n", usedforsecurity=False).hexdigest()
BLOBS = [["model.safetensors", 7, f"sha256:{WEIGHTS}"], ["config.json", 3, f"git:{CONFIG}"]]


def fetch(snapshot: Path, wanted: list[list[Any]]) -> str:
    """Verify and record without a network; give what the program says against it."""
    arguments = [
        "a/b",
        "c0",
        str(snapshot),
        f"{snapshot}.json",
        "digest",
        wanted,
        str(snapshot.parents[2]),
        "http://127.0.0.1:9",
        "",
    ]
    # A client that finds nothing: what is damaged stays so.
    client = (
        "import sys, types\nhub = types.ModuleType('huggingface_hub')\n"
        "hub.snapshot_download = lambda *_, **__: None\nsys.modules['huggingface_hub'] = hub\n"
    )
    call = f"fetch(*json.loads({json.dumps(arguments)!r}))"
    return python(f"{TREE}\n{SEAL}\n{FETCH}\n{client}{call}\n", check=False).stderr


def test_a_model_as_its_hub_says_is_recorded(snapshot: Path) -> None:
    """Verified by the hub's own hashes, what is not the model's removed, and found unchanged."""
    (snapshot / "by-hand.json").write_text("{}")
    (snapshot.parents[1] / "blobs" / "x.incomplete").touch()
    assert fetch(snapshot, BLOBS) == ""
    weights = Weights(path=str(snapshot), record=f"{snapshot}.json")
    (found,) = looked_at(weights, deep=True)
    assert (found["files"], found["changed"]) == ("digest", [])
    assert sorted(path.name for path in snapshot.iterdir()) == ["config.json", "model.safetensors"]
    assert not list((snapshot.parents[1] / "blobs").glob("*.incomplete"))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_damaged_file_is_taken_away_and_not_recorded(snapshot: Path, name: str) -> None:
    """Same size, another byte: its blob goes, since the client would take it for a good one."""
    blob = (snapshot / name).resolve()
    blob.write_text("W" + blob.read_text()[1:])
    assert f"not what the hub's hashes say: {name}" in fetch(snapshot, BLOBS)
    assert not blob.exists()
    assert not Path(f"{snapshot}.json").exists()


def test_weights_linked_to_by_a_backup_are_recorded_anew(snapshot: Path) -> None:
    """A link to a blob moves the time of its last change, and nothing else."""
    assert fetch(snapshot, BLOBS) == ""
    (snapshot.parent / "backup").hardlink_to((snapshot / "config.json").resolve())
    weights = Weights(path=str(snapshot), record=f"{snapshot}.json")
    assert [one["retimed"] for one in looked_at(weights)] == [True]
    renew(snapshot, follow=True)
    assert [(one["retimed"], one["files"]) for one in looked_at(weights)] == [(False, "digest")]


@pytest.mark.parametrize("changed_by", ["content", "link"])
def test_weights_that_change_are_found(snapshot: Path, changed_by: str) -> None:
    """A blob written to, or a link led elsewhere, is found through the snapshot."""
    assert fetch(snapshot, BLOBS) == ""
    link = snapshot / "model.safetensors"
    if changed_by == "content":
        _keeping_times(link.resolve(), lambda path: path.write_text("WEIGHTS"))
    else:
        link.unlink()
        link.symlink_to("../../blobs/b2")
    (found,) = looked_at(Weights(path=str(snapshot), record=f"{snapshot}.json"))
    assert found["changed"] == [f"{changed_by}: model.safetensors"]
