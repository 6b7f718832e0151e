"""Packages of the distribution: installed, held. Debian and Ubuntu."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pyinfra.api import operation

from manifest.resources import Hold, Package
from operations.convergence import Command, Commands, Comparison, converge, script

# A run that died may have left dpkg half way; a fresh host may have no package lists at all, or
# lists so old that what they name is gone. needrestart is told to list only: nothing may restart
# in the middle of a deploy.
INSTALL = """
set -eu
export DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=l LC_ALL=C
if [ -n "$(dpkg --audit)" ]; then dpkg --configure -a; fi
apt() { apt-get -q -y -o DPkg::Lock::Timeout=300 "$@"; }
apt install --no-install-recommends "$@" >/dev/null 2>&1 || {
  apt update
  apt install --no-install-recommends "$@"
}
sync -f /var/lib/dpkg
"""


@operation()
def installed(packages: Sequence[Package]) -> Commands:
    """
    Ensure packages are installed, whatever their version.

    + packages: the packages as declared
    """
    yield from converge("packages", packages, _install)


@operation()
def held(holds: Sequence[Hold]) -> Commands:
    """
    Ensure that installed packages whose names match are held back from upgrades.

    + holds: patterns of package names
    """
    yield from converge("holds", holds, _hold)


def _install(compared: Comparison) -> Iterator[Command]:
    yield script(INSTALL, *(package.id for package in compared.differing(Package)))


def _hold(compared: Comparison) -> Iterator[Command]:
    for difference in compared.differences:
        yield script('apt-mark hold -- "$@" >/dev/null', *difference.found)
