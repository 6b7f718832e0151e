"""Virtual environments on a host, looked at with nothing but Python's packaging records."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from testinfra.host import Host

from tests.host.declared import ROOT

# Where environments stand, and whose lock is in them; the flavour stands for the engine's.
SHELVES = {"tools": "uv", "guards": "guard", "runtimes": "flavour"}

# Runs on the host with the environment's own Python. Every installed file against the RECORD of its
# package; every compiled file against the source it says it was made of; and what belongs to none.
INSPECT = r"""
import base64, csv, email, glob, hashlib, importlib.util, json, os, sys
site, = glob.glob(sys.prefix + "/lib/python*/site-packages")
deep = sys.argv[1] == "deep"
packages, wrong, known = {}, [], set()
for info in glob.glob(site + "/*.dist-info"):
    metadata = email.message_from_string(open(info + "/METADATA", errors="replace").read())
    packages[metadata["Name"]] = metadata["Version"]
    for path, digest, size in csv.reader(open(info + "/RECORD", newline="")):
        path = os.path.normpath(os.path.join(site, path))
        known.add(path)
        if not os.path.isfile(path):
            wrong.append("gone: " + path)
        elif size and os.path.getsize(path) != int(size):
            wrong.append("size: " + path)
        elif digest and (deep or os.path.getsize(path) < 1 << 22):
            algorithm, _, expected = digest.partition("=")
            found = hashlib.new(algorithm, open(path, "rb").read()).digest()
            if base64.urlsafe_b64encode(found).decode().rstrip("=") != expected:
                wrong.append("content: " + path)
others = []
for folder, _, names in os.walk(sys.prefix):
    for path in (os.path.join(folder, name) for name in names):
        if not path.endswith(".pyc"):
            others += [os.path.relpath(path, sys.prefix)] * (path not in known)
            continue
        head = open(path, "rb").read(16)
        source = importlib.util.source_from_cache(path)
        if not os.path.isfile(source):
            wrong.append("compiled from nothing: " + path)
        elif head[4:8] != b"\3\0\0\0":
            wrong.append("compiled without a checked hash: " + path)
        elif head[8:] != importlib.util.source_hash(open(source, "rb").read()):
            wrong.append("compiled from something else: " + path)
print(json.dumps({"packages": packages, "wrong": wrong, "others": sorted(others)}))
"""


@dataclass(frozen=True, slots=True)
class Environment:
    """One environment in use on a host, and the lock that it was made from."""

    path: str
    lock: str  # the lock's name below locks/

    @property
    def record(self) -> str:
        """Where its files are recorded, outside of it."""
        shelf, name = self.path.rsplit("/", 2)[1:]
        return f"/opt/mlx-hosts/records/{shelf}-{name}.json"

    def inspect(self, host: Host, *, deep: bool) -> dict[str, Any]:
        """Give its packages, what is wrong with their files, and the files of no package."""
        python = f"{self.path}/bin/python"
        how = "deep" if deep else "shallow"
        answer: dict[str, Any] = json.loads(
            host.check_output("%s -I -B -c %s %s", python, INSPECT, how)
        )
        return answer


def text_of(lock: str) -> str:
    """Give a lock's text."""
    return (ROOT / "locks" / f"{lock}.txt").read_text(encoding="utf-8")


def in_use(host: Host, shelf: str, flavour: str | None) -> Environment:
    """Find the environment of a shelf that was made from the checkout's lock, the newest if many.

    Raises ``AssertionError`` where there is none.
    """
    lock = SHELVES[shelf] if shelf != "runtimes" else flavour
    locks = [lock] if lock else ["cuda12", "cuda13"]
    folders = host.check_output("ls -At %s", f"/opt/mlx-hosts/{shelf}").split()
    for name in folders:
        path = f"/opt/mlx-hosts/{shelf}/{name}"
        told = host.run("cat %s", f"{path}/requirements.txt").stdout
        for one in locks:
            if told == text_of(one):
                return Environment(path, one)
    raise AssertionError(f"{shelf}: none of {folders} is made from locks/{locks}")


def locked(lock: str, *, python: str, architecture: str) -> dict[str, str]:
    """Name to version of what a lock installs on Linux under a Python's full version."""
    environment = {
        "python_version": ".".join(python.split(".")[:2]),
        "python_full_version": python,
        "platform_machine": architecture,
        "sys_platform": "linux",
        "platform_system": "Linux",
        "os_name": "posix",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }
    lines = re.findall(r"^([a-zA-Z0-9][^\\\n]*)", text_of(lock), flags=re.MULTILINE)
    requirements = [Requirement(line.strip()) for line in lines]
    return {
        canonicalize_name(one.name): str(one.specifier).removeprefix("==")
        for one in requirements
        if one.marker is None or one.marker.evaluate(environment)
    }
