"""What makes a host itself: name, machine id, address, host key, and who may log in."""

import os
import uuid
from dataclasses import dataclass
from pathlib import Path

from lab import downloads
from lab.bases import USER
from lab.machine import run

_NETWORK = """\
[Match]
Name=host0

[Network]
Address={address}/{prefix}
Gateway={gateway}
LinkLocalAddressing=no
IPv6AcceptRA=no
LLMNR=no
"""

# sudo is 250 ms slower for each command on a host that cannot resolve its own name.
_HOSTS = """\
127.0.0.1 localhost
{address} {name}
::1 localhost ip6-localhost ip6-loopback
"""


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Who a host is."""

    name: str
    address: str
    prefix: int
    gateway: str
    authorized_key: str
    """The public key that may log in as the unprivileged user."""

    def write_into(self, root: Path) -> str:
        """Write it into a host's tree before it boots; return the host's public key.

        The key is made here and not by the host, so that the first connection is checked too.
        """
        (root / "etc/machine-id").write_text(f"{uuid.uuid4().hex}\n")
        (root / "etc/hostname").write_text(f"{self.name}\n")
        (root / "etc/hosts").write_text(_HOSTS.format(name=self.name, address=self.address))
        (root / "etc/systemd/network/10-lab.network").write_text(
            _NETWORK.format(address=self.address, prefix=self.prefix, gateway=self.gateway)
        )
        downloads.copy_into(root)
        self._authorize(root)
        key = root / "etc/ssh/ssh_host_ed25519_key"
        for old in (key, key.with_suffix(".pub")):
            old.unlink(missing_ok=True)
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", self.name, "-f", key)
        return " ".join(key.with_suffix(".pub").read_text().split()[:2])

    def _authorize(self, root: Path) -> None:
        home = root / "home" / USER
        owner = home.stat()
        directory = home / ".ssh"
        directory.mkdir(mode=0o700, exist_ok=True)
        authorized = directory / "authorized_keys"
        authorized.write_text(f"{self.authorized_key}\n")
        authorized.chmod(0o600)
        for made in (directory, authorized):
            os.chown(made, owner.st_uid, owner.st_gid)
