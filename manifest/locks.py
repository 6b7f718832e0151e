"""What a hash-locked requirements file installs on one kind of host."""

from __future__ import annotations

import re
from functools import cache

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from manifest.manifest import digest


def pins(lock: str, *, python: str, architecture: str) -> dict[str, str]:
    """Name to version of all that ``lock`` installs on Linux.

    ``python`` is a full version (``3.11.2``), ``architecture`` what ``uname -m`` says. Raises
    ``ValueError`` for a requirement that is not pinned.
    """
    environment = {
        "implementation_name": "cpython",
        "os_name": "posix",
        "platform_machine": architecture,
        "platform_python_implementation": "CPython",
        "platform_system": "Linux",
        "python_full_version": python,
        "python_version": ".".join(python.split(".")[:2]),
        "sys_platform": "linux",
    }
    pinned: dict[str, str] = {}
    for line in re.sub(r"\\\n", " ", lock).splitlines():
        text = re.split(r"\s--hash=", line.partition(" #")[0].strip())[0].strip()
        if not text or text.startswith(("#", "-")):
            continue
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate(environment):
            continue
        versions = [one.version for one in requirement.specifier if one.operator == "=="]
        if not versions:
            raise ValueError(f"lock: expected `name==version`, got `{text}`")
        pinned[canonicalize_name(requirement.name)] = versions[0]
    return pinned


@cache
def contents(lock: str, *, python: str, architecture: str) -> str:
    """Digest of what ``lock`` installs: what a sealed runtime's record says it contains."""
    installed = pins(lock, python=python, architecture=architecture)
    return digest(sorted(f"{name}=={version}" for name, version in installed.items()))
