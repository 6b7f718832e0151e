"""Packages of the distribution: installed, held. Debian and Ubuntu."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pyinfra.api import operation

from manifest.resources import Hold, Package
from operations.convergence import Command, Commands, Comparison, converge, script

# A run that died may have left dpkg half way: what was unpacked is configured; what was unpacked in
# part is installed again, which apt does not do by itself. A fresh host may have no package lists
# at all, or lists so old that what they name is gone. needrestart is told to list only: nothing may
# restart in the middle of a deploy.
INSTALL = """
set -eu
export DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=l LC_ALL=C
apt() { apt-get -q -y -o DPkg::Lock::Timeout=300 "$@"; }
install() {
  apt install --no-install-recommends "$@" >/dev/null 2>&1 || {
    apt update
    apt install --no-install-recommends "$@"
  }
}
if [ -n "$(dpkg --audit)" ]; then
  dpkg --configure -a || echo "dpkg: to be installed again, then configured" >&2
  parts=$(dpkg-query -W -f '${db:Status-Eflag} ${binary:Package}\n' | sed -n 's/^reinstreq //p')
  if [ -n "$parts" ]; then install --reinstall $parts; fi
  dpkg --configure -a
fi
install "$@"
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
