"""The machine that the lab runs on: its commands, files, locks and mounts."""

import fcntl
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_REAPED_WITHIN_S = 5


class LabError(Exception):
    """Something of the lab cannot be done; the message says what, and the way out."""


def run(*argv: str | Path, timeout_s: float = 60, env: dict[str, str] | None = None) -> str:
    """Run a program and return what it printed; raise LabError with its stderr if it fails."""
    command = [str(word) for word in argv]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            env=env,
        )
    except FileNotFoundError:
        message = f"`{command[0]}` is not installed: run `make lab-prerequisites`"
        raise LabError(message) from None
    except subprocess.TimeoutExpired:
        raise LabError(f"`{' '.join(command)}` took longer than {timeout_s:g} s") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip()
        raise LabError(f"`{' '.join(command)}` exited with {done.returncode}: {said}")
    return done.stdout


def write_json(path: Path, value: object, mode: int = 0o644) -> None:
    """Write a JSON file so that a reader sees the old or the new one, never half of one."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "w") as file:
        json.dump(value, file, indent=2)
        file.write("\n")
    draft.replace(path)


def read_json(path: Path) -> Any:  # noqa: ANN401  # JSON is whatever it is
    """Read a JSON file."""
    return json.loads(path.read_text())


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file; it goes with the process, so no crash leaves it behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Python opens it close-on-exec, so no child inherits the lock.
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def boot_id() -> str:
    """Tell this boot of the machine from every other."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def mounts_under(directory: Path) -> list[Path]:
    """List the mount points at and below a directory, the last mounted first."""
    prefix = str(directory.resolve())
    points = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        # Field 5 is the mount point, with blanks and the like as octal escapes (proc(5)).
        point = line.split()[4].encode().decode("unicode_escape")
        if point == prefix or point.startswith(prefix + "/"):
            points.append(Path(point))
    return points[::-1]


def unmount_under(directory: Path) -> None:
    """Unmount everything at and below a directory that the lab made."""
    deadline = time.monotonic() + _REAPED_WITHIN_S
    for point in mounts_under(directory):
        while True:
            try:
                run("umount", point)
            except LabError:
                # A process that was killed holds it until the kernel has reaped it.
                if time.monotonic() > deadline:
                    run("umount", "--lazy", point)
                    break
                time.sleep(0.02)
            else:
                break


def remove_tree(directory: Path) -> None:
    """Remove a directory that the lab made, never reaching through a mount."""
    if not directory.exists():
        return
    unmount_under(directory)
    left = mounts_under(directory)
    if left:
        raise LabError(f"`{left[0]}` is still mounted: `{directory}` was not removed")
    shutil.rmtree(directory)
