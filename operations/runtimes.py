"""Virtual environments built from hash-locked files, sealed, and never altered in place."""

from __future__ import annotations

import base64
import io
import json
import shlex
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from pyinfra.api import StringCommand, operation

from facts.probe import TREE
from manifest import layout
from manifest.resources import Shelf
from manifest.runtime import Environment
from operations.convergence import Command, Commands, Comparison, converge, script
from operations.records import SEAL, converge_tree

# What a site needs for downloads comes on standard input: a proxy's password is nobody's to read in
# a list of processes. `eval`, since /dev/stdin cannot be opened where it is a socket.
WITH_ENVIRONMENT = 'set -eu; umask 022; set -a; eval "$(cat)"; set +a; exec "$@" </dev/null'
# Whatever root's own umask is, other users run what is built.
OPEN = 'umask 022; exec "$@"'
COMPILE = ("-I", "-m", "compileall", "-q", "-j", "2", "--invalidation-mode", "checked-hash")


@operation()
def built(environment: Environment, uv: str | None, site: Mapping[str, str]) -> Commands:
    """
    Ensure that an environment is there, complete, exact and unaltered.

    + environment: what it is to be
    + uv: path of the uv that builds it; None to build with the interpreter's own venv and pip
    + site: variables that downloads need here, such as ``HTTPS_PROXY``

    Built in its place under a name that nobody uses yet; what makes it count is its record, written
    last. One that was damaged is put aside first, so that what runs from it runs on.
    """
    commands = partial(changes, environment=environment, uv=uv, site=site)
    yield from converge_tree("runtime", environment.resource(), commands)


@operation()
def swept(shelves: Sequence[Shelf]) -> Commands:
    """
    Ensure that of environments only those in use and the one before are there.

    + shelves: the directories, each with the names in use
    """
    yield from converge("runtimes", shelves, _sweep)


def _sweep(compared: Comparison) -> Iterator[Command]:
    for shelf in compared.differing(Shelf):
        for name in compared.of(shelf)["surplus"].found:
            record = f"{layout.RECORDS}/{shelf.path.rpartition('/')[2]}-{name}.json"
            # The record first: a tree half removed must not pass for a whole one.
            yield script('rm -f -- "$1"; rm -rf -- "$2"', record, f"{shelf.path}/{name}")


def changes(
    compared: Comparison, environment: Environment, uv: str | None, site: Mapping[str, str]
) -> Iterator[Command]:
    """Yield the build, from clearing the place to the record."""
    del compared  # whatever differs, an environment is made anew
    path, python = environment.path, environment.interpreter.path
    requirements = f"{path}/requirements.txt"
    # A cache that a power cut left has wheels with holes in them, which uv believes.
    aside = 'rm -rf -- "$1" "$3" "$2.cache"; if [ -e "$2" ]; then mv -T -- "$2" "$3"; fi'
    yield script(aside, environment.record, path, f"{path}.replaced")
    if uv is None:
        # pip from a second environment, so that nothing is in the first but what the lock says.
        yield script(OPEN, python, "-I", "-m", "venv", "--without-pip", path)
        yield script(OPEN, python, "-I", "-m", "venv", f"{path}.cache")
        yield from _put(environment.lock, requirements)
        pip = [f"{path}.cache/bin/python", "-I", "-m", "pip", "--python", f"{path}/bin/python"]
        options = ["install", "--quiet", "--no-compile", "--no-cache-dir", "--require-hashes"]
        yield _download(site, *pip, *options, "-r", requirements)
    else:
        build = {"UV_CACHE_DIR": f"{path}.cache", "UV_PYTHON_DOWNLOADS": "never", **site}
        options = ["venv", "-q", "--no-project", "--python"]
        yield script(OPEN, f"{uv}/bin/uv", *options, python, path)
        yield from _put(environment.lock, requirements)
        sync = [f"{uv}/bin/uv", "pip", "sync", "--no-progress", "--require-hashes"]
        yield _download(build, *sync, "--python", f"{path}/bin/python", requirements)
    if environment.source:
        yield _unpack(environment)
    # Hash-checked bytecode: with times inside, two hosts built alike would differ.
    yield script(OPEN, f"{path}/bin/python", *COMPILE, f"{path}/lib")
    # The cache goes before the record: its links to the same files are part of what it records.
    # uv's lock goes too: whatever the umask, uv leaves it for everybody to write.
    yield script('rm -rf -- "$1.cache" "$1.replaced" "$1/.lock"', path)
    yield _seal(environment)


def _download(site: Mapping[str, str], *command: str) -> StringCommand:
    variables = "".join(f"{name}={shlex.quote(value)}\n" for name, value in site.items())
    return script(WITH_ENVIRONMENT, *command, stdin=variables or "\n")


def _put(text: str, path: str) -> Iterator[Command]:
    stdin = base64.encodebytes(text.encode()).decode()
    yield script('umask 022; base64 -d >"$1"', path, stdin=stdin)


def _unpack(environment: Environment) -> StringCommand:
    """Put our own sources into site-packages: root's, and with no times of this machine."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, text in sorted(environment.source.items()):
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(text.encode()), 0o644
            archive.addfile(member, io.BytesIO(text.encode()))
    stdin = base64.encodebytes(buffer.getvalue()).decode()
    text = 'umask 022; base64 -d | tar -x --no-same-owner -C "$1"/lib/python*/site-packages'
    return script(text, environment.path, stdin=stdin)


def _seal(environment: Environment) -> StringCommand:
    arguments = [environment.path, environment.record, environment.packages]
    call = f"seal_runtime(*json.loads({json.dumps(arguments)!r}), {sorted(environment.source)!r})"
    return StringCommand("python3 -I -", _stdin=f"{TREE}\n{SEAL}\n{call}\n")
