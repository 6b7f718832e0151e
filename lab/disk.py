"""A host's disk: an overlay over a base image and layers, thrown away with the host.

A durable disk keeps what the host writes on an ext4 of its own, so that a power cut loses what
was not synced, as on a real machine.
"""

import contextlib
import fcntl
import os
import struct
import time
from collections.abc import Sequence
from pathlib import Path

from lab.machine import LabError, mounts_under, remove_tree, run, unmount_under

# EXT4_IOC_SHUTDOWN and EXT4_GOING_FLAGS_NOLOGFLUSH (linux/fs/ext4/ext4.h): from this moment on
# nothing reaches the image, its journal included. The kernel's own tests cut power this way.
_SHUTDOWN = 0x8004587D
_WITHOUT_FLUSHING_THE_LOG = struct.pack("I", 2)

SIZE_BYTES = 16 << 30
"""Of a durable disk; the image is sparse and takes what was written."""

_OPTIONS = "index=off,xino=off,redirect_dir=off,metacopy=off"
"""With all of them off the upper directory is plain enough to be a lower one elsewhere."""


class Disk:
    """What one host writes, over what it shares with others."""

    def __init__(self, directory: Path, *, durable: bool) -> None:
        """Put the disk below a directory of the host's own."""
        self.root = directory / "root"
        self._image = directory / "disk.img"
        self._own = directory / "disk"
        self._durable = durable
        self.upper = self._own / "upper"

    def make(self) -> None:
        """Make it, empty."""
        self.root.mkdir()
        self._own.mkdir()
        if self._durable:
            with self._image.open("wb") as image:
                image.truncate(SIZE_BYTES)
            # A small journal: the whole of it is written when the image is made.
            run("mkfs.ext4", "-q", "-m0", "-J", "size=32", self._image)

    def mount(self, lower: Sequence[Path]) -> None:
        """Mount it over lower trees, the topmost first."""
        if mounts_under(self.root):
            return
        if self._durable and not mounts_under(self._own):
            self._let_go()
            run("mount", "-o", "loop", self._image, self._own)
        self.upper.mkdir(exist_ok=True)
        (self._own / "work").mkdir(exist_ok=True)
        trees = ":".join(str(tree) for tree in lower)
        options = f"lowerdir={trees},upperdir={self.upper},workdir={self._own}/work,{_OPTIONS}"
        run("mount", "-t", "overlay", "overlay", "-o", options, self.root)

    def sync(self) -> None:
        """Write everything to a durable disk, as a clean shutdown does."""
        if self._durable:
            run("sync", "--file-system", self._own)

    def lose_power(self) -> None:
        """Let nothing more reach a durable disk; it stays so until it is mounted again."""
        if not self._durable or not mounts_under(self._own):
            return
        descriptor = os.open(self._own, os.O_RDONLY)
        try:
            # What is behind the descriptor decides: on any other file system this were fatal.
            if not self._is_ours(os.fstat(descriptor).st_dev):
                raise LabError(f"`{self._own}` is not the file system on `{self._image}`")
            fcntl.ioctl(descriptor, _SHUTDOWN, _WITHOUT_FLUSHING_THE_LOG)
        finally:
            os.close(descriptor)

    def _is_ours(self, device: int) -> bool:
        """Whether a block device is a loop device over this disk's image."""
        number = f"{os.major(device)}:{os.minor(device)}"
        backing = Path(f"/sys/dev/block/{number}/loop/backing_file")
        return backing.exists() and Path(backing.read_text().strip()) == self._image.resolve()

    def unmount(self) -> None:
        """Unmount it; mounting it again recovers its journal."""
        unmount_under(self.root)
        unmount_under(self._own)

    def _let_go(self) -> None:
        """Make sure that mounting the image is not joining what is left of an earlier mount.

        A file system lives on, shut down as it is, while any mount namespace has it: that of a
        host that was killed, for a moment, or one that a stranger made, for as long as it likes.
        Then the image is copied as the power cut left it.
        """
        deadline = time.monotonic() + 2
        while self._attached():
            if time.monotonic() > deadline:
                copy = self._image.with_suffix(".copy")
                run("cp", "--sparse=always", "--reflink=auto", self._image, copy, timeout_s=600)
                copy.replace(self._image)
                return
            time.sleep(0.01)

    def _attached(self) -> bool:
        """Whether a loop device is on its image."""
        mine = str(self._image.resolve())
        for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
            with contextlib.suppress(OSError):  # it was detached between listing and reading
                if backing.read_text().strip() == mine:
                    return True
        return False

    def remove(self) -> None:
        """Throw it away."""
        self.unmount()
        remove_tree(self.root)
        remove_tree(self._own)
        self._image.unlink(missing_ok=True)

    def copy_upper(self, to: Path) -> None:
        """Copy what the host wrote, whiteouts and overlay attributes included."""
        run("cp", "--archive", "--reflink=auto", self.upper, to, timeout_s=600)
