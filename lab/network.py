"""A lab's network: a bridge with private addresses, and the way out through this machine."""

import ipaddress
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

from lab.machine import LabError, read_json, run, write_json

FORWARD = Path("/proc/sys/net/ipv4/ip_forward")


class Network:
    """The bridge of one lab and the firewall rules that go with it."""

    def __init__(self, *, lab: str, subnet: str) -> None:
        """Name them after the lab; nothing is made yet."""
        self.bridge = f"mlxlab-{lab}"
        self.subnet = ipaddress.IPv4Network(subnet)
        self._comment = f"mlx-hosts-lab-{lab}"

    @property
    def machine(self) -> str:
        """The address of this machine on the bridge."""
        return str(self.subnet[1])

    @property
    def addresses(self) -> list[str]:
        """Every address that a host may have."""
        return [str(address) for address in self.subnet][11:-1]

    def make(self, forwarding: Path) -> None:
        """Make what is not there; `forwarding` records what ip_forward was before the first lab."""
        if not Path(f"/sys/class/net/{self.bridge}").exists():
            # One that is given none has that of a port, another one whenever a host comes or goes,
            # and for seconds nobody who knew the last one gets through.
            own = "02:42:" + self.subnet[1].packed.hex(":")
            run("ip", "link", "add", self.bridge, "address", own, "type", "bridge")
        run(
            "ip",
            "address",
            "replace",
            f"{self.machine}/{self.subnet.prefixlen}",
            "dev",
            self.bridge,
        )
        run("ip", "link", "set", self.bridge, "up")
        if FORWARD.read_text().strip() == "0":
            write_json(forwarding, {"ip_forward": "0"})
            FORWARD.write_text("1")
        for table, chain, *rule in self._rules():
            if not self._has(table, chain, rule):
                run("iptables", "-w", "-t", table, "-I", chain, *rule)

    def remove(self) -> None:
        """Take away the rules and the bridge."""
        for table, chain, *rule in self._rules():
            there = partial(self._has, table, chain, rule)
            _until_gone(there, "iptables", "-w", "-t", table, "-D", chain, *rule)
        bridge = Path(f"/sys/class/net/{self.bridge}")
        _until_gone(bridge.exists, "ip", "link", "delete", self.bridge)

    def _rules(self) -> list[list[str]]:
        mark = ["-m", "comment", "--comment", self._comment]
        out = ["-s", str(self.subnet), "!", "-o", self.bridge, "-j", "MASQUERADE"]
        return [
            ["nat", "POSTROUTING", *out, *mark],
            # A machine with Docker or ufw drops what nothing accepts.
            ["filter", "FORWARD", "-i", self.bridge, "-j", "ACCEPT", *mark],
            ["filter", "FORWARD", "-o", self.bridge, "-j", "ACCEPT", *mark],
            ["filter", "INPUT", "-i", self.bridge, "-j", "ACCEPT", *mark],
        ]

    @staticmethod
    def _has(table: str, chain: str, rule: list[str]) -> bool:
        try:
            run("iptables", "-w", "-t", table, "-C", chain, *rule)
        except LabError:
            return False
        return True


def _until_gone(there: Callable[[], bool], *command: str) -> None:
    """Run ``command`` while something is ``there``.

    The last command of a run that was killed outlives it, and may come first.
    """
    while there():
        try:
            run(*command)
        except LabError:
            if there():
                raise


def stop_forwarding(forwarding: Path) -> None:
    """Set ip_forward back to what it was before the first lab, if a lab changed it."""
    if forwarding.exists():
        FORWARD.write_text(read_json(forwarding)["ip_forward"])
        forwarding.unlink()


def free_subnet(taken: list[str]) -> str:
    """Choose a private /24 that nothing on this machine routes to, uses or was given."""
    used = [ipaddress.IPv4Network(subnet) for subnet in taken]
    routes = json.loads(run("ip", "-json", "-4", "route", "show", "table", "all") or "[]")
    used += [
        ipaddress.IPv4Network(route["dst"], strict=False)
        for route in routes
        if route["dst"] != "default"
    ]
    for line in Path("/etc/resolv.conf").read_text().splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver" and ":" not in words[1]:
            used.append(ipaddress.IPv4Network(words[1]))
    for third in range(1, 255):
        candidate = ipaddress.IPv4Network(f"10.213.{third}.0/24")
        if not any(candidate.overlaps(network) for network in used):
            return str(candidate)
    raise LabError("no free subnet within 10.213.0.0/16: remove labs with `python -m lab down`")
