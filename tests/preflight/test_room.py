"""What the disks must have room for."""

import subprocess

from facts.present import Present
from manifest.weights import Blob, directory, snapshot
from planner import requirements
from planner.declared import Host
from tasks import room
from tests.preflight.cases import ALL

HOST = Host(name="gpu-1", flavour="cpu")
FOUND = ALL["Debian 12, no GPU, `flavour: cpu`"].found()
BLOBS = (
    Blob(path="a", size=1000, hash="sha256:aa"),
    Blob(path="b", size=24, hash="git:bb"),
    Blob(path="c", size=24, hash="git:bb"),
)
HUB = "/var/lib/mlx-hosts/hub"
WANTS = {f"{HUB}/models--lab--tiny/blobs/aa": 1000, f"{HUB}/models--lab--tiny/blobs/bb": 24}


def test_the_runtime_wants_room():
    """Below where it is put, on a host that has nothing yet."""
    assert room.below(room.runtime(HOST, FOUND), present={}) == {
        "/opt/mlx-hosts": requirements.RUNTIME_BYTES["cpu"],
        HUB: 0,
    }


def test_the_files_that_are_planned_want_room():
    """Each content once, of whatever revisions; what somebody else keeps wants none."""
    tiny, later = (snapshot("lab/tiny", revision * 40, BLOBS) for revision in "01")
    assert room.weights([tiny, later, directory("/srv/tiny", BLOBS)]) == WANTS
    assert room.below(WANTS, present={}) == {"/opt/mlx-hosts": 0, HUB: 1024}


def test_what_is_there_wants_no_room_again():
    """Half a file wants the other half, a runtime that was built wants nothing."""
    wants = room.runtime(HOST, FOUND) | WANTS
    runtime = next(path for path in wants if path.startswith("/opt"))
    present = {runtime: 2**40, f"{HUB}/models--lab--tiny/blobs/aa.1f.incomplete": 900}
    assert room.below(wants, present=present) == {"/opt/mlx-hosts": 0, HUB: 124}


def test_half_a_file_is_found(tmp_path):
    """Whatever its client calls it; another one's content is not counted."""
    for name in ("aa 1.incomplete", "b", "cc"):
        (tmp_path / name).write_bytes(b"x" * 5000)
    asked = Present().command([f"{tmp_path}/aa", f"{tmp_path}/bb", f"{tmp_path}/cc"])
    said = subprocess.check_output(["sh", "-c", asked.get_raw_value()], text=True)
    assert set(Present().process(said.splitlines())) == {
        f"{tmp_path}/aa 1.incomplete",
        f"{tmp_path}/cc",
    }


def test_a_host_without_an_interpreter_wants_nothing():
    """It is refused for that, and what its runtime would be called is unknown."""
    bare = type(FOUND)(kernel=FOUND.kernel)
    assert room.runtime(HOST, bare) == {}
