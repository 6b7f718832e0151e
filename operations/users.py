"""System users."""

from __future__ import annotations

from collections.abc import Iterator

from pyinfra.api import operation

from manifest.resources import User
from operations.convergence import Command, Commands, Comparison, converge, script

PRESENT = """
set -eu
name=$1 home=$2 shell=$3 groups=$4
getent group "$name" >/dev/null || groupadd --system "$name"
if entry=$(getent passwd "$name"); then
  usermod --shell "$shell" --groups "$groups" "$name"
  # usermod moves no user who has processes, and ours always has: its field is set as vipw would.
  if [ "$(echo "$entry" | cut -d: -f6)" != "$home" ]; then
    sed -i "s#^\\($name:[^:]*:[^:]*:[^:]*:[^:]*\\):[^:]*:#\\1:$home:#" /etc/passwd
  fi
else useradd --system --gid "$name" --no-create-home \
  --home-dir "$home" --shell "$shell" --groups "$groups" "$name"
fi
"""


@operation()
def present(user: User) -> Commands:
    """
    Ensure a system user with a group of its own name.

    + user: the user as declared
    """
    yield from converge("user", [user], changes)


def changes(compared: Comparison) -> Iterator[Command]:
    """Yield what makes or mends each user that differs."""
    for user in compared.differing(User):
        groups = ",".join(user.groups or ())
        yield script(PRESENT, user.name, user.home or "/", user.shell or "/bin/false", groups)
