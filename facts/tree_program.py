"""Trees of files, sealed by a record: what records one and what compares it are the same lines.

Standard library only, Python 3.9 and up; other programs that run on a host are sent behind it.
A record's ``tree`` is name to [link, size, mtime, ctime, mode, uid, gid, sha256], the times in ns.
"""

import hashlib
import os
import stat
import time


def sha256_of(path, until=None):
    """Hash a file; raises TimeoutError at a moment of the monotonic clock."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
            if until is not None and time.monotonic() > until:
                raise TimeoutError
    return digest.hexdigest()


def walk(top, follow):
    """Yield (name, path, link target or None, status or None) of all that is not a directory.

    The status of a link is that of the file it leads to where ``follow`` is set, else None.
    """
    pending = [top]
    start = len(os.path.join(top, ""))
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                name = entry.path[start:]  # relpath() would take as long as all the rest
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                elif entry.is_symlink():
                    status = os.stat(entry.path) if follow and os.path.isfile(entry.path) else None
                    yield name, entry.path, os.readlink(entry.path), status
                else:
                    yield name, entry.path, None, entry.stat(follow_symlinks=False)


def times(status):
    """Give what changes with a file's content: its size, and two times in nanoseconds."""
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def owned(status):
    return [stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid]


def seal(top, follow):
    """Make the ``tree`` of a record."""
    tree = {}
    for name, path, target, status in walk(top, follow=follow):
        if status is None:
            tree[name] = [target, None, None, None, None, None, None, None]
        else:
            tree[name] = [target, *times(status), *owned(status), sha256_of(path)]
    return tree


def changes(top, known, follow, deep, until):
    """Yield what is not as the ``tree`` of a record has it; read again only what looks changed.

    Every file is read where ``deep`` is set, and none after ``until`` (of the monotonic clock).
    One that was read again and is the same, but for its times, is told as ``times``.
    """
    seen = set()
    for name, path, target, status in walk(top, follow=follow):
        seen.add(name)
        was = known.get(name)
        change = "added" if was is None else changed(path, target, status, was, deep, until)
        if change:
            yield f"{change}: {name}"
    for name in sorted(set(known) - seen):
        yield f"removed: {name}"


def changed(path, target, status, was, deep, until):
    link, size, mtime, ctime, *owner, sha256 = was
    if target != link:
        return "link"
    if status is None:
        return None if sha256 is None else "removed"
    if owned(status) != owner:
        return "mode"
    moved = times(status) != [size, mtime, ctime]
    if not moved and not deep:
        return None
    try:
        # One of another size has another content, and needs no reading.
        same = status.st_size == size and sha256_of(path, until) == sha256
    except TimeoutError:
        return "unread"
    return ("times" if moved else None) if same else "content"
