"""Whether somebody else is at the host's packages: apt, dpkg, unattended upgrades, cloud-init."""

from __future__ import annotations

from pyinfra.api import FactBase, StringCommand
from typing_extensions import override

# Seen in /proc/locks by their inode: asking does not take the lock, and needs no lsof. cloud-init
# writes result.json when it is through with everything, the packages of its user data included.
LOOK = """\
look() {
  for f in /var/lib/dpkg/lock-frontend /var/lib/dpkg/lock /var/lib/apt/lists/lock; do
    i=$(stat -c %i "$f" 2>/dev/null) || continue
    sed -n "s/.* POSIX .* \\([0-9]*\\) [0-9a-f]*:[0-9a-f]*:$i .*/\\1/p" /proc/locks |
      while read -r p; do echo "$(cat "/proc/$p/comm" 2>/dev/null) (pid $p) holds $f"; done
  done
  [ ! -e /run/cloud-init/status.json ] || [ -e /run/cloud-init/result.json ] ||
    echo "cloud-init is still at work"
}
"""
WAIT = """\
n=0
while busy=$(look); [ -n "$busy" ] && [ $n -lt {seconds} ]; do sleep 1; n=$((n+1)); done
[ -z "$busy" ] || echo "$busy\""""


class PackageManager(FactBase[tuple[str, ...]]):
    """Who is at the packages, having waited up to ``seconds`` for them; empty for nobody."""

    default = tuple

    @override
    def command(self, seconds: int = 0) -> StringCommand:
        return StringCommand(LOOK + WAIT.format(seconds=seconds))

    @override
    def process(self, output: list[str]) -> tuple[str, ...]:
        return tuple(line for line in output if line.strip())
