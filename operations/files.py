"""Directories and files with their content, mode and owner."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from pyinfra.api import QuoteString, StringCommand, operation

from manifest.resources import Entry, File, Resource
from operations.convergence import Command, Commands, Comparison, converge, script

# Written beside its place, checked, made durable, and only then renamed into it: a run that dies
# leaves the old file or the new one. The hash is checked because a connection that breaks looks
# like the end of the input.
WRITE = """
set -eu
umask 077
path=$1 sum=$2 owner=$3 mode=$4
new=$(dirname "$path")/.$(basename "$path").mlx-hosts
base64 -d >"$new"
echo "$sum  $new" | sha256sum --check --status
chown "$owner" "$new"
chmod "$mode" "$new"
sync "$new"
if [ -d "$path" ] && [ ! -L "$path" ]; then rm -rf -- "$path"; fi
mv -fT -- "$new" "$path"
sync "$(dirname "$path")"
"""


@operation()
def converged(resources: Sequence[Resource], contents: Mapping[str, str]) -> Commands:
    """
    Ensure directories and files are as declared.

    + resources: ``Directory`` and ``File`` resources, parents first
    + contents: the text of each file, by path
    """
    yield from converge("files", resources, partial(changes, contents=contents))


def changes(compared: Comparison, contents: Mapping[str, str]) -> Iterator[Command]:
    """Yield what makes the host as declared: in the order declared."""
    made: list[str] = []  # directories of this run: what was seen through a link is not in them
    for resource in compared.expected:
        if not isinstance(resource, Entry):
            continue
        differs = compared.of(resource)
        kinds = {""} if resource.path.startswith(tuple(made)) else set(differs)
        if isinstance(resource, File) and {"", "instead", "sha256"} & kinds:
            if resource.path in contents:  # else the stamp's, which is written before all this
                yield write(resource, contents[resource.path])
            continue
        if {"", "instead"} & kinds:
            yield make(resource.path)
            made.append(f"{resource.path}/")
        if {"", "instead", "mode", "owner", "group"} & kinds:
            yield _own(resource)
        if "entries" in kinds:
            found, expected = differs["entries"].found or (), differs["entries"].expected
            yield from map(remove, _paths(resource.path, sorted({*found} - {*expected})))


def write(file: File, text: str) -> StringCommand:
    """Put a file's text in place, whole or not at all, never readable by others meanwhile."""
    data = text.encode()
    stdin = base64.encodebytes(data).decode()
    owner, sha256 = f"{file.owner}:{file.group}", hashlib.sha256(data).hexdigest()
    return script(WRITE, file.path, sha256, owner, str(file.mode), stdin=stdin)


def remove(path: str) -> StringCommand:
    """Remove a file, or a directory with all that is in it."""
    return StringCommand("rm", "-rf", "--", QuoteString(path))


def make(path: str) -> StringCommand:
    """Make a directory; a link or a file in its place goes, nothing behind a link is touched."""
    text = 'if [ -L "$1" ] || [ ! -d "$1" ]; then rm -f -- "$1"; fi; mkdir -p -- "$1"'
    return script(text, path)


def _own(resource: Entry) -> StringCommand:
    text = 'chown -h "$2" "$1" && chmod "$3" "$1"'
    return script(text, resource.path, f"{resource.owner}:{resource.group}", str(resource.mode))


def _paths(folder: str, names: list[str]) -> list[str]:
    return [f"{folder}/{name}" for name in names]
