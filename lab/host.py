"""One host of a lab: a Debian under systemd with an address of its own."""

import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.bases import USER, base
from lab.commands import Done, finish
from lab.disk import Disk
from lab.identity import Identity
from lab.layers import forget_who_it_was, take
from lab.machine import LabError, read_json, remove_tree, run, write_json
from lab.nspawn import Nspawn
from lab.processes import Process
from lab.tree import Item, listing

if TYPE_CHECKING:
    from lab.lab import Lab

_TIMED_OUT = 124
"""What timeout(1) exits with when it had to end the command."""


class Host:
    """A host of a lab. Made by `Lab.boot`, found again by `Lab.host`."""

    def __init__(self, lab: "Lab", name: str) -> None:
        """Find a host that was claimed before."""
        self.lab = lab
        self.name = name
        self.directory = lab.room / "hosts" / name
        record = read_json(self.directory / "host.json")
        self.address: str = record["address"]
        self.release: str = record["release"]
        self.durable: bool = record["durable"]
        self.layers = [Path(layer) for layer in record["layers"]]
        self.binds: list[str] = record["binds"]
        self._disk = Disk(self.directory, durable=self.durable)
        self._machine: str = record["machine"]
        self._container = Nspawn(self._machine, self.directory / "console.log")

    # What it is

    @property
    def root(self) -> Path:
        """Its whole tree as seen from this machine: its disk, without /run, /tmp, /proc, /sys."""
        return self._disk.root

    @property
    def interface(self) -> str:
        """Its port on the lab's bridge."""
        return self._container.interface

    @property
    def public_key(self) -> str:
        """Its SSH host key as in a known_hosts file; empty before its first start."""
        return str(self._record().get("public_key", ""))

    @property
    def console(self) -> str:
        """What it printed on its console since it was made."""
        return self._container.console

    @property
    def ssh_data(self) -> dict[str, str | int]:
        """How to reach it, under the names that pyinfra's SSH connector has for these things."""
        return {
            "ssh_hostname": self.address,
            "ssh_port": 22,
            "ssh_user": USER,
            "ssh_key": str(self.lab.key),
            "ssh_known_hosts_file": str(self.lab.known_hosts),
            "ssh_strict_host_key_checking": "yes",
        }

    def running(self) -> bool:
        """Whether it is switched on."""
        process = self._process()
        return process is not None and process.alive()

    # Commands

    def run(
        self,
        command: str,
        *,
        check: bool = True,
        timeout_s: float = 60,
        input: str | None = None,  # noqa: A002  # as in subprocess.run
    ) -> Done:
        """Run a shell command as the unprivileged user, by SSH; raise HostError if it fails."""
        ssh = ["ssh", "-F", str(self.lab.ssh_config), "-o", "BatchMode=yes", self.name, command]
        return finish(self.name, ssh, command, check=check, timeout_s=timeout_s, text=input)

    def root_run(
        self,
        command: str,
        *,
        check: bool = True,
        timeout_s: float = 60,
        input: str | None = None,  # noqa: A002  # as in subprocess.run
    ) -> Done:
        """Run a shell command as root from this machine (no SSH, no network: 10 ms)."""
        systemd = self._systemd()
        if systemd is None:
            raise LabError(f"{self.name} is starting or rebooting")
        inside = [*self._container.enter(systemd), "bash", "-c", command]
        return finish(self.name, inside, command, check=check, timeout_s=timeout_s, text=input)

    # Power

    def start(self) -> None:
        """Switch it on and wait until it is up and answers SSH."""
        if self.running():
            return
        self._disk.mount([*self.layers, base(self.release)])
        if not self.public_key:
            self._note(public_key=self._identity().write_into(self.root))
            self._disk.sync()
            self.lab.tell()
        process = self._container.start(
            self.root,
            bridge=self.lab.network.bridge,
            binds=self.binds,
            rooms=self.lab.room.parent,
        )
        self._note(process=process.to_json())
        self.wait_until_up()

    def wait_until_up(self, timeout_s: float = 180) -> None:
        """Wait until systemd has started everything and sshd answers; raise LabError if not.

        That includes services of the host's own: a model that is being loaded, say.
        """
        deadline = time.monotonic() + timeout_s
        state = ""
        # `--wait` needs a bus to ask, which the host does not have in its first moments.
        while state not in {"running", "degraded"}:
            self._patience(deadline, "is not up", state)
            if self._systemd() is not None:
                left = max(deadline - time.monotonic(), 1)
                ask = f"timeout {left:.0f} systemctl is-system-running --wait"
                answer = self.root_run(ask, check=False, timeout_s=left + 10)
                state = answer.stdout.strip()
                if answer.returncode == _TIMED_OUT:
                    jobs = self.root_run("systemctl list-jobs", check=False).stdout
                    raise LabError(f"{self.name} is still starting after {timeout_s:g} s:\n{jobs}")
        while not self._answers():
            self._patience(deadline, "does not answer on port 22", state)

    def reboot(self, *, until_up: bool = True) -> None:
        """Reboot it in good order, and wait until it is up again, or until it begins to start.

        Run nothing on it meanwhile: systemd stops all processes for a moment at the end; nsenter
        then stops itself, nobody wakes it, and the host waits three minutes for what it left.
        """
        before = self._systemd()
        self.root_run("systemctl reboot", check=False)
        if before is not None:
            before.wait(timeout_s=90)
        if until_up:
            self.wait_until_up()

    def stop(self) -> None:
        """Shut it down in good order; its disk stays."""
        process = self._process()
        if process is not None and process.alive():
            self.root_run("systemctl poweroff", check=False)
            process.wait(timeout_s=90)
        self._container.kill()
        self._disk.sync()

    def kill(self) -> None:
        """Take its power away: every process gone at once, and what a durable disk had not synced.

        `start` switches it on again.
        """
        self._disk.lose_power()
        self._container.kill()
        process = self._process()
        if process is not None:
            process.wait(timeout_s=10)
        self._disk.unmount()

    def power_cut(self) -> None:
        """Take its power away and give it back: see `kill`."""
        self.kill()
        self.start()

    # Its disk

    def tree(self) -> dict[str, Item]:
        """List its whole disk, contents digested: see `lab.tree`."""
        self.flush()
        return listing(self.root)

    def flush(self) -> None:
        """Have it write everything to its disk."""
        if self.running():
            self.root_run("sync; journalctl --sync")

    def snapshot(self) -> list[Path]:
        """Keep what it wrote so far as a layer of the lab; return the `layers` for other hosts.

        It may be running, and is then held still for the moment; what its programs have only in
        memory is not in it. It lasts as long as the lab. See `lab.layers.cached` for longer.
        """
        place = Path(tempfile.mkdtemp(prefix=f"{self.name}-", dir=self.lab.layers))
        return take(self, place)

    def retire(self) -> list[Path]:
        """Shut it down for good and make what it wrote a layer of the lab; return the `layers`.

        Moved and not copied: every file keeps the time of its last change (ctime). A durable disk
        is another file system, where that is not possible: use `snapshot`.
        """
        self.stop()
        self._disk.unmount()
        place = Path(tempfile.mkdtemp(prefix=f"{self.name}-", dir=self.lab.layers))
        self._disk.upper.rename(place / "upper")
        forget_who_it_was(place / "upper")
        self.destroy()
        return [place / "upper", *self.layers]

    @contextmanager
    def held_still(self) -> Iterator[None]:
        """Stop all its processes within a block, as if time stood still."""
        if not self.running():
            yield
            return
        self.flush()
        self._container.freeze(frozen=True)
        try:
            yield
        finally:
            self._container.freeze(frozen=False)

    def copy_upper(self, to: Path) -> None:
        """Copy what it wrote over its base and layers."""
        self._disk.copy_upper(to)

    # Network

    def cut_network(self) -> None:
        """Pull its cable: packets to and from it are lost, connections hang."""
        run("ip", "link", "set", self.interface, "down")

    def restore_network(self) -> None:
        """Put its cable back."""
        run("ip", "link", "set", self.interface, "up")

    # Life and death

    def new_identity(self) -> "Host":
        """Destroy it and build it anew from scratch, under its name, on the same base and layers.

        The new host has another machine id, address and host key; nothing of the old one is left.
        """
        self.destroy()
        return self.lab.boot(
            self.name,
            release=self.release,
            layers=self.layers,
            durable=self.durable,
            binds=self.binds,
        )

    def destroy(self) -> None:
        """Remove it and everything that was made for it, but not another one that has its name."""
        if self._record()["machine"] != self._machine:
            return
        self._container.kill()
        process = self._process()
        if process is not None:
            process.end()
        self._disk.remove()
        remove_tree(self.directory)
        self.lab.tell()

    # Inside

    def _record(self) -> dict[str, Any]:
        record: dict[str, Any] = read_json(self.directory / "host.json")
        return record

    def _note(self, **what: object) -> None:
        write_json(self.directory / "host.json", {**self._record(), **what})

    def _process(self) -> Process | None:
        recorded = self._record().get("process")
        return Process.of_json(recorded) if recorded else None

    def _systemd(self) -> Process | None:
        process = self._process()
        if process is None:
            raise LabError(f"{self.name} was never started")
        return self._container.systemd(process)

    def _identity(self) -> Identity:
        return Identity(
            name=self.name,
            address=self.address,
            prefix=self.lab.network.subnet.prefixlen,
            gateway=self.lab.network.machine,
            authorized_key=self.lab.key.with_suffix(".pub").read_text().strip(),
        )

    def _answers(self) -> bool:
        try:
            with socket.create_connection((self.address, 22), timeout=1) as connection:
                return connection.recv(4) == b"SSH-"
        except OSError:
            return False

    def _patience(self, deadline: float, complaint: str, state: str) -> None:
        if time.monotonic() > deadline:
            console = self.console[-2000:]
            raise LabError(f"{self.name} {complaint} (system state `{state}`):\n{console}")
        time.sleep(0.02)


def claim(
    directory: Path,
    *,
    address: str,
    machine: str,
    release: str,
    layers: Sequence[Path],
    durable: bool,
    binds: Sequence[str],
) -> None:
    """Write down what a host is before anything of it is made, so that it can always be removed."""
    directory.mkdir(parents=True)
    write_json(
        directory / "host.json",
        {
            "address": address,
            "machine": machine,
            "release": release,
            "layers": [str(layer) for layer in layers],
            "durable": durable,
            "binds": list(binds),
        },
    )
    Disk(directory, durable=durable).make()
