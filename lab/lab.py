"""A lab: a network of its own and the hosts on it, removed without a trace when it goes."""

import os
import re
import secrets
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lab import downloads
from lab.bases import DEFAULT_RELEASE, USER, base
from lab.host import Host, claim
from lab.hub import Hub
from lab.machine import LabError, lock, read_json, remove_tree, run, write_json
from lab.network import Network, free_subnet, stop_forwarding
from lab.prerequisites import missing
from lab.processes import Process

ROOMS = Path("/var/lib/mlx-hosts-lab")
"""One directory a lab: all that was made for it stands here or is named here, before it is made."""

_FORWARDING = ROOMS / "forwarding.json"

_HOST_NAME = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?")


class Lab:
    """Some hosts on a bridge of their own.

    Within `with Lab() as lab:` it lasts as long as the block (and is removed by the next lab of
    any kind, should this process be killed). `Lab.at(directory)` is one that stays until `down`.
    """

    def __init__(self, state: Path | None = None, *, room: Path | None = None) -> None:
        """Make a lab; or, given its room, find one that was made before.

        Raises LabError with everything that is missing on this machine.
        """
        if room is None:
            absent = missing()
            if absent:
                raise LabError("no lab can be made here:\n  " + "\n  ".join(absent))
            room = _reserve(state)
        self.room = room
        self._record: dict[str, Any] = read_json(room / "lab.json")
        self.id: str = self._record["id"]
        self.state = Path(self._record["state"])
        self.network = Network(lab=self.id, subnet=self._record["subnet"])

    @classmethod
    def at(cls, state: Path) -> Self:
        """Find the lab whose state stands in a directory, or make it; it outlives this process."""
        return cls.found(state) or cls(state)

    @classmethod
    def found(cls, state: Path) -> Self | None:
        """Find the lab whose state stands in a directory."""
        pointer = state / "lab.json"
        if not pointer.exists():
            return None
        room = ROOMS / read_json(pointer)["lab"]
        return cls(room=room) if (room / "lab.json").exists() else None

    def __enter__(self) -> Self:
        """Set up its network."""
        try:
            self.open()
        except BaseException:
            self.down()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove it."""
        self.down()

    # What others read

    @property
    def key(self) -> Path:
        """The private key that opens its hosts."""
        return self.state / "key"

    @property
    def known_hosts(self) -> Path:
        """The host keys of its hosts."""
        return self.state / "known_hosts"

    @property
    def ssh_config(self) -> Path:
        """For `ssh -F`: its hosts by name."""
        return self.state / "ssh_config"

    @property
    def inventory(self) -> Path:
        """Its hosts as data: see lab/README.md."""
        return self.state / "inventory.json"

    @property
    def layers(self) -> Path:
        """Where snapshots of its hosts stand."""
        directory = self.room / "layers"
        directory.mkdir(exist_ok=True)
        return directory

    @cached_property
    def hub(self) -> Hub:
        """The lab's own hub, on the bridge; `serve_models` starts it."""
        lasts = self._record["owner"] is None
        return Hub(self.room / "hub", address=self.network.machine, outlives=lasts)

    def hub_data(self) -> dict[str, Any] | None:
        """Return endpoint, token and models of the hub; None if there is none."""
        told = self.room / "hub/told.json"
        return read_json(told) if told.exists() else None

    def hosts(self) -> list[Host]:
        """Return its hosts, by name."""
        found = []
        for record in sorted((self.room / "hosts").glob("*/host.json")):
            with suppress(FileNotFoundError):  # another thread has just destroyed it
                found.append(Host(self, record.parent.name))
        return found

    def host(self, name: str) -> Host:
        """Find a host; raise LabError if there is none of that name."""
        if not (self.room / "hosts" / name / "host.json").exists():
            names = ", ".join(host.name for host in self.hosts()) or "none"
            raise LabError(f"no host `{name}` in this lab: it has {names}")
        return Host(self, name)

    # Acts

    def open(self) -> None:
        """Make what is not there yet: key and network."""
        with lock(ROOMS / ".lock"):
            if not self.key.exists():
                run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", self.key)
            self.network.make(_FORWARDING)
        self.tell()

    def boot(
        self,
        name: str,
        *,
        release: str = DEFAULT_RELEASE,
        layers: Sequence[Path] = (),
        durable: bool = False,
        address: str | None = None,
        binds: Sequence[str] = (),
    ) -> Host:
        """Boot a new host and return it when it answers SSH (1 to 2 s).

        `layers` are trees over the base image, the topmost first; `binds` are paths as nspawn's
        `--bind=` takes them. With `durable` a power cut loses what was not synced. Raises LabError
        for an unknown release, a name that is none, or a name or an address that is taken.
        """
        base(release)
        with lock(self.room / ".lock"):
            directory = self._vacant(name)
            address = self._address(address)
            claim(
                directory,
                address=address,
                # Short: it names the host's interface, which may have 15 letters.
                machine=f"{self.id}-{address.rpartition('.')[2]}",
                release=release,
                layers=layers,
                durable=durable,
                binds=binds,
            )
        host = Host(self, name)
        host.start()
        return host

    def down(self) -> None:
        """Remove it: hosts, processes, mounts, network, files."""
        for host in (self.room / "hosts").glob("*"):
            if (host / "host.json").exists():
                Host(self, host.name).destroy()
        if (self.room / "hub").exists():
            self.hub.stop()
        self.network.remove()
        with lock(ROOMS / ".lock"):
            self._forget_state()
            remove_tree(self.room)
            if not any(ROOMS.glob("*/lab.json")):
                stop_forwarding(_FORWARDING)

    def tell(self) -> None:
        """Write the files that others read, from what is known of the hosts."""
        with lock(self.room / ".telling"):
            known = [host for host in self.hosts() if host.public_key]
            self.known_hosts.write_text(
                "".join(f"{host.name},{host.address} {host.public_key}\n" for host in known)
            )
            self.ssh_config.write_text("".join(self._ssh_section(host) for host in known))
            write_json(
                self.inventory,
                {
                    "lab": self.id,
                    "hosts": {
                        host.name: {**host.ssh_data, "release": host.release} for host in known
                    },
                    "download_environment": downloads.environment(),
                    "hub": self.hub_data(),
                },
            )

    def serve_models(self, models: Mapping[str, Path]) -> Hub:
        """Have the lab's hub up, where hosts reach it, with these repositories; tell of it."""
        self.hub.start()
        for name, directory in models.items():
            self.hub.add_repo(name, directory)
        told = {"endpoint": self.hub.endpoint, "token": Hub.token, "models": self.hub.models()}
        write_json(self.hub.directory / "told.json", told)
        self.tell()
        return self.hub

    # Inside

    def _vacant(self, name: str) -> Path:
        if not _HOST_NAME.fullmatch(name):
            raise LabError(
                f"`{name}` is not a host's name: letters, digits and hyphens, 63 at most"
            )
        directory = self.room / "hosts" / name
        if directory.exists():
            raise LabError(f"there is a host `{name}` in this lab already")
        return directory

    def _address(self, wanted: str | None) -> str:
        record = read_json(self.room / "lab.json")
        taken = {host.address for host in self.hosts()}
        if wanted is None:
            # An address given back is not given again, so that a rebuilt host has another one.
            given = [*record["given"], *taken]
            free = [one for one in self.network.addresses if one not in given]
            if not free:
                raise LabError(f"all addresses of {self.network.subnet} were given: make a new lab")
            wanted = free[0]
        elif wanted in taken or wanted not in self.network.addresses:
            raise LabError(f"`{wanted}` is not a free address of {self.network.subnet}")
        write_json(self.room / "lab.json", {**record, "given": [*record["given"], wanted]})
        return wanted

    def _ssh_section(self, host: Host) -> str:
        return (
            f"Host {host.name}\n"
            f"  HostName {host.address}\n"
            f"  User {USER}\n"
            f"  IdentityFile {self.key}\n"
            f"  IdentitiesOnly yes\n"
            f"  UserKnownHostsFile {self.known_hosts}\n"
            f"  StrictHostKeyChecking yes\n"
        )

    def _forget_state(self) -> None:
        for name in ("lab.json", "key", "key.pub", "known_hosts", "ssh_config", "inventory.json"):
            (self.state / name).unlink(missing_ok=True)
        if self.state.is_dir() and not any(self.state.iterdir()):
            self.state.rmdir()


def sweep() -> list[str]:
    """Remove the labs that crashed runs left behind, and return their names.

    A lab is left behind when the process that owns it is gone, or the directory that points to it.
    """
    swept = []
    with lock(ROOMS / ".sweeping"):
        # A lab goes under this lock, so none goes between being listed and being read.
        with lock(ROOMS / ".lock"):
            found_labs = [read_json(record) for record in sorted(ROOMS.glob("*/lab.json"))]
        for found in found_labs:
            owner, pointer = found["owner"], Path(found["state"]) / "lab.json"
            gone = not Process.of_json(owner).alive() if owner else not pointer.exists()
            if gone:
                Lab(room=ROOMS / found["id"]).down()
                swept.append(found["id"])
        with lock(ROOMS / ".lock"):
            # Neither made nor removed to the end: there is nothing in it but files.
            for room in ROOMS.glob("*/"):
                if not (room / "lab.json").exists():
                    remove_tree(room)
    return swept


def _reserve(state: Path | None) -> Path:
    """Give a new lab an id, a room and a subnet, on record before anything is made."""
    sweep()
    with lock(ROOMS / ".lock"):
        identity = secrets.token_hex(2)
        while (ROOMS / identity).exists():
            identity = secrets.token_hex(2)
        subnet = free_subnet([read_json(one)["subnet"] for one in ROOMS.glob("*/lab.json")])
        room = ROOMS / identity
        room.mkdir(mode=0o700)
        owner = Process.of(os.getpid()).to_json() if state is None else None
        state = (state or room / "state").resolve()
        record: dict[str, Any] = {
            "id": identity,
            "state": str(state),
            "owner": owner,
            "subnet": subnet,
            "given": [],
        }
        try:
            state.mkdir(parents=True, exist_ok=True)
            write_json(state / "lab.json", {"lab": identity})
            write_json(room / "lab.json", record)
        except BaseException:
            shutil.rmtree(room)
            raise
    return room
