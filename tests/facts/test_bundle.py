"""A bundle run by a real shell: nothing inside can hold it up, nothing is left behind."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from pyinfra.api import StringCommand

from facts.bundle import Section, bundle, unbundle

SECONDS = 1
# Ignores what can be ignored, and leaves a child in another session that holds its output.
DEAF = """\
trap '' TERM INT HUP; echo before; setsid sh -c 'echo $$ >"$PIDS"; exec sleep 60' & sleep 60"""


def run(**commands: str) -> dict[str, Section]:
    """Run a bundle in `sh`, as pyinfra does, and take it apart."""
    script = bundle({name: StringCommand(c) for name, c in commands.items()}, seconds=SECONDS)
    done = subprocess.run(
        ["sh", "-c", script.get_raw_value()], capture_output=True, timeout=30, check=True
    )
    assert done.stderr == b""
    return unbundle(done.stdout.decode().splitlines())


def test_each_command_has_its_own_status_and_lines():
    """Order, quotes and failures stay with the command they belong to."""
    answers = run(one="echo 'a  b'; echo \"$0\"", two="echo no >&2; exit 7", three="true")
    assert answers == {
        "one": Section(0, ["a  b", "sh"]),
        "two": Section(7, ["no"]),
        "three": Section(0, []),
    }


def test_a_command_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What it said before, and every other answer, arrives in time; its family is killed."""
    pids = tmp_path / "pids"
    monkeypatch.setenv("PIDS", str(pids))
    began = time.monotonic()
    answers = run(deaf=DEAF, quick="echo here")
    took = time.monotonic() - began
    os.kill(int(pids.read_text()), signal.SIGKILL)  # the one out of the bundle's reach
    assert answers == {"deaf": Section(None, ["before"]), "quick": Section(0, ["here"])}
    assert SECONDS <= took < SECONDS + 5


def test_a_byte_that_is_not_text_loses_nothing_else():
    """pyinfra stops reading at a byte that is not UTF-8 and calls what it has a success."""
    answers = run(odd=r"printf 'one\377two\nthree\303\244\n'")
    assert answers["odd"].lines == ["onetwo", "three"]


def test_lines_that_look_like_ours_stay_where_they_are():
    """A command may print what a bundle prints."""
    assert run(sly="echo '== other 0'; echo '  indented'")["sly"].lines == [
        "== other 0",
        "  indented",
    ]


def test_nothing_is_left_behind():
    """The answers were kept in memory, and are gone."""
    (kept_in,) = run(one="readlink /proc/self/fd/1")["one"].lines
    assert kept_in.startswith("/dev/shm/")
    assert not Path(kept_in).parent.exists()
