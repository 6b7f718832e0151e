"""What the disks must have room for."""

from hub.lock import Checkpoint, Entry, File, Lock
from planner import requirements
from planner.declared import Host, Model
from tasks import room
from tests.preflight.cases import ALL

MODEL = Model(repo="lab/tiny", revision="0" * 40, name="tiny", context=1024)
HOST = Host(name="gpu-1", flavour="cpu", models=(MODEL,))
FOUND = ALL["Debian 12, no GPU, `flavour: cpu`"].found()
LOCK = Lock(
    models={
        MODEL.source: Entry(
            source=MODEL.source,
            files=(File(path="a", size=1000), File(path="b", size=24)),
            checkpoint=Checkpoint(tensors=1, bytes_by_dtype={}),
        )
    }
)


def test_the_runtime_and_each_known_model_want_room():
    """Below where they are put, on a host that has nothing yet."""
    assert room.below(room.wanted(HOST, FOUND, LOCK), present={}) == {
        "/opt/mlx-hosts": requirements.RUNTIME_BYTES["cpu"],
        "/var/lib/mlx-hosts/hub": 1024,
    }


def test_what_is_there_wants_no_room_again():
    """Half a download wants the other half, a runtime that was built wants nothing."""
    wants = room.wanted(HOST, FOUND, LOCK)
    runtime = next(path for path in wants if path.startswith("/opt"))
    present = {runtime: 2**40, "/var/lib/mlx-hosts/hub/models--lab--tiny": 1000}
    assert room.below(wants, present=present) == {
        "/opt/mlx-hosts": 0,
        "/var/lib/mlx-hosts/hub": 24,
    }


def test_a_model_that_nobody_has_looked_at_wants_nothing_yet():
    """Its size is not known; the plan will know it."""
    assert room.below(room.wanted(HOST, FOUND, Lock()), present={})["/var/lib/mlx-hosts/hub"] == 0


def test_a_host_without_an_interpreter_wants_nothing():
    """It is refused for that, and what its runtime would be called is unknown."""
    bare = type(FOUND)(kernel=FOUND.kernel)
    assert room.wanted(HOST, bare, LOCK) == {}
