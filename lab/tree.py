"""The complete listing of a tree, to compare two hosts, or one before and after."""

import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "link",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
}


@dataclass(frozen=True, kw_only=True)
class Item:
    """One thing in a tree."""

    kind: str
    mode: str
    """Permissions in octal."""
    owner: str
    """`uid:gid`."""
    content: str
    """A file's SHA-256, a link's target, a device's number; empty for the rest."""
    size: int
    """Bytes of a file; 0 for the rest."""
    mtime_ns: int
    """Nanoseconds since 1970."""

    def same(self, other: "Item") -> bool:
        """Whether two are the same but for the time they were written."""
        return self.__dict__ | {"mtime_ns": 0} == other.__dict__ | {"mtime_ns": 0}


def listing(root: Path) -> dict[str, Item]:
    """List everything below a root, by absolute path within it; other file systems are entered.

    Reads every file: half a second for a fresh Debian from the page cache.
    """
    return {"/" + os.path.relpath(entry.path, root): _item(entry) for entry in _walk(root)}


def differences(
    before: dict[str, Item],
    after: dict[str, Item],
    *,
    without: Sequence[str] = (),
    times: bool = False,
) -> list[str]:
    """Say what differs between two listings, a line a path; `without` are patterns of paths.

    A pattern leaves out what is below a matching path too. Times are compared on request.
    """
    said = []
    for path in sorted(before.keys() | after.keys()):
        if any(fnmatchcase(path, one) or fnmatchcase(path, f"{one}/*") for one in without):
            continue
        old, new = before.get(path), after.get(path)
        if old is None:
            said.append(f"added {path}")
        elif new is None:
            said.append(f"removed {path}")
        elif not old.same(new):
            said.append(f"changed {path}: {_what_changed(old, new)}")
        elif times and old.mtime_ns != new.mtime_ns:
            said.append(f"written {path}")
    return said


def _walk(root: Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(root) as entries:
        for entry in entries:
            yield entry
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(Path(entry.path))


def _item(entry: os.DirEntry[str]) -> Item:
    found = entry.stat(follow_symlinks=False)
    kind = _KINDS[stat.S_IFMT(found.st_mode)]
    return Item(
        kind=kind,
        mode=f"{stat.S_IMODE(found.st_mode):04o}",
        owner=f"{found.st_uid}:{found.st_gid}",
        content=_content(entry.path, kind, found),
        size=found.st_size if kind == "file" else 0,
        mtime_ns=found.st_mtime_ns,
    )


def _content(path: str, kind: str, found: os.stat_result) -> str:
    if kind == "file":
        with open(path, "rb") as file:  # noqa: PTH123  # ten thousands of files: no Path for each
            return hashlib.file_digest(file, "sha256").hexdigest()
    if kind == "link":
        return str(Path(path).readlink())
    if kind.endswith("device"):
        return f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"
    return ""


def _what_changed(old: Item, new: Item) -> str:
    changes = [
        f"{name} {before} -> {after}"
        for name, before in old.__dict__.items()
        if (after := new.__dict__[name]) != before and name not in {"mtime_ns", "content"}
    ]
    if old.content != new.content:
        changes.append(f"content {old.content[:12]} -> {new.content[:12]}")
    return ", ".join(changes)
