"""This project's drift check beside `pyinfra --dry` and Ansible's check mode, in one run.

    python benchmarks/drift_speed.py --ansible VENV/bin [--hosts 1 5] [--catalogue] [--out FILE]

Boots a lab, deploys once, starts hosts from that state, and times every tool on the very same
hosts: medians of so many runs, in turn, so that a busy machine is busy for all of them. VENV has
ansible-core (`uv venv VENV; uv pip install --python VENV/bin/python ansible-core==2.19.14`).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

from facts.probe import parse, question
from lab import Lab
from lab.host import Host
from lab.models import MODELS
from lab.proxy import slow_link
from manifest.difference import diff
from manifest.resources import Directory, File, Package, Runtime, Unit, User, Weights
from manifest.stamp import loads
from tests.deploying import environment_of
from tests.drift.by_hand import CATALOGUE
from tests.drift.checking import INVENTORY, deploy
from tests.drift.proving import Change
from tests.drift.sealing import seal_anew

READY = (
    'until grep -qs \'"state": "ready"\' /run/mlx-hosts/nonsense.0/state.json; do sleep 0.3; done'
)
Entries = dict[str, dict[str, Any]]
AT_ONCE = 12  # hosts with a change each: systemd takes inotify instances, of which there are few


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ansible", type=Path, help="the folder of ansible-playbook")
    parser.add_argument("--hosts", type=int, nargs="*", default=[1, 5])
    parser.add_argument("--entries", type=int, nargs="*", default=[], help="more than there are")
    parser.add_argument("--files", type=int, nargs="*", default=[], help="looked at on one host")
    parser.add_argument("--far", type=float, nargs="*", default=[], help="round trips, in ms")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--catalogue", type=int, default=0, help="so many changes made by hand")
    parser.add_argument("--layers", type=Path, help="JSON list of a converged host's layers")
    parser.add_argument("--lab", type=Path, help="state of a lab that is up, instead of a new one")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--plot", type=Path, help="of the growth with entries and files")
    given = parser.parse_args()
    with ExitStack() as stack:
        lab = Lab.found(given.lab) if given.lab else stack.enter_context(Lab())
        assert lab is not None
        Bench(lab, given).run()


class Bench:
    def __init__(self, lab: Lab, given: argparse.Namespace) -> None:
        self.lab, self.given = lab, given
        self.place = lab.state / "bench"
        self.place.mkdir(exist_ok=True)
        self.result: dict[str, Any] = {
            "machine": f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start",
            "runs": given.runs,
            "seconds": {},
            "processor seconds": {},
        }

    def run(self) -> None:
        layers = self.with_apt_for_ansible(self.layers())
        count = max([*self.given.hosts, 1])
        hosts = [self.lab.boot(f"bench-{index}", layers=layers) for index in range(1, count + 1)]
        try:
            for host in hosts:
                host.root_run(READY)
            self.variables(hosts[0])
            for number in self.given.hosts:
                self.measure(f"{number} hosts", self.entries(hosts[:number]), everything=True)
            for number in self.given.entries:
                self.measure(f"{number} entries", self.entries(hosts, number), everything=False)
            for number in self.given.files:
                self.look_at(hosts[0], number)
            for milliseconds in self.given.far:
                self.from_afar(hosts[: self.given.hosts[-1]], milliseconds)
        finally:
            for host in hosts:
                host.destroy()
        self.result["load at the end"] = os.getloadavg()[0]
        self.keep()
        if self.given.plot:
            plot(self.result, self.given.plot)
        changes = CATALOGUE[: self.given.catalogue]
        for first in range(0, len(changes), AT_ONCE):
            self.catalogue(layers, changes[first : first + AT_ONCE])
            self.keep()
        print(json.dumps(self.result, indent=1))

    def keep(self) -> None:
        """Write what is known so far."""
        if self.given.out:
            self.given.out.write_text(json.dumps(self.result, indent=1) + "\n")

    def layers(self) -> list[Path]:
        if self.given.layers:
            return [Path(layer) for layer in json.loads(self.given.layers.read_text())]
        self.lab.serve_models({name: make() for name, make in MODELS.items()})
        host = self.lab.boot("first")
        deploy(self.lab, host.name)
        host.flush()
        layers = host.snapshot()
        host.destroy()
        return layers

    def with_apt_for_ansible(self, layers: list[Path]) -> list[Path]:
        """Add what Ansible's check mode of `apt` needs, and most hosts have."""
        host = self.lab.boot("bench-0", layers=layers)
        host.root_run("apt-get update -qq; apt-get install -qqy python3-apt", timeout_s=300)
        seal_anew(host)
        host.flush()
        layers = host.snapshot()
        host.destroy()
        return layers

    # What the tools are given

    def entries(self, hosts: list[Host], number: int | None = None) -> Entries:
        """Give inventory entries: one a host, or more that share them."""
        number = number or len(hosts)
        return {f"e{i}": dict(hosts[i % len(hosts)].ssh_data) for i in range(number)}

    def variables(self, host: Host) -> None:
        """Say in Ansible's words what the manifest of a host says."""
        stamp = loads((host.root / "etc/mlx-hosts/stamp.json").read_text())
        assert stamp.applied
        of = lambda kind: [one for one in stamp.applied if isinstance(one, kind)]  # noqa: E731
        contents = self.contents(host)
        own = ("path", "mode", "owner", "group")
        values = {
            "packages": [one.name for one in of(Package)],
            "users": [one.to_json() for one in of(User)],
            "directories": [{key: getattr(one, key) for key in own} for one in of(Directory)],
            "files": [
                {**{key: getattr(one, key) for key in own}, "content": contents[one.path]}
                for one in of(File)
                if one.path in contents
            ],
            "trees": [one.path for kind in (Runtime, Weights) for one in of(kind)],
            "units": [one.name for one in of(Unit)],
        }
        (self.place / "vars.json").write_text(json.dumps(values))

    def contents(self, host: Host) -> dict[str, str]:
        stamp = loads((host.root / "etc/mlx-hosts/stamp.json").read_text())
        assert stamp.applied
        return {
            one.path: (host.root / one.path.lstrip("/")).read_text()
            for one in stamp.applied
            if isinstance(one, File) and one.sha256 is not None
        }

    def tools(self, entries: Entries, *, everything: bool) -> dict[str, list[str]]:
        inventory = self.place / "inventory.py"
        inventory.write_text(
            (ROOT / INVENTORY).read_text().replace('_lab["hosts"]', f"({entries!r})")
        )
        python, bin_ = sys.executable, Path(sys.executable).parent
        floor = [python, "benchmarks/drift_floor.py", str(inventory)]
        tools = {
            "connecting alone": [*floor, "connect"],
            "the floor": [*floor, "ask"],
            "drift.py": [python, "drift.py", str(inventory), "--json"],
        }
        if everything:
            dry = [str(bin_ / "pyinfra"), str(inventory), "deploy.py", "--dry", "--json"]
            tools["pyinfra --dry"] = dry
            if self.given.ansible:
                tools["ansible --check"] = self.ansible(entries)
        return tools

    def ansible(self, entries: Entries) -> list[str]:
        inventory = self.place / "hosts.json"
        known = {
            name: {
                "ansible_host": one["ssh_hostname"],
                "ansible_port": one["ssh_port"],
                "ansible_user": one["ssh_user"],
                "ansible_ssh_private_key_file": one["ssh_key"],
                "ansible_python_interpreter": "/usr/bin/python3",
            }
            for name, one in entries.items()
        }
        inventory.write_text(json.dumps({"all": {"hosts": known}}))
        (self.place / "ansible.cfg").write_text(
            "[defaults]\nforks = 50\nhost_key_checking = False\ncallback_result_format = yaml\n"
            "[connection]\npipelining = True\n"
            "[ssh_connection]\nssh_args = -o ControlMaster=auto -o ControlPersist=300s"
            " -o UserKnownHostsFile=/dev/null -o StrictHostKeyChecking=no\n"
        )
        playbook = [str(self.given.ansible / "ansible-playbook"), "-i", str(inventory)]
        variables = f"@{self.place}/vars.json"
        return [*playbook, "--check", "--diff", "-e", variables, "benchmarks/drift_playbook.yml"]

    # Measuring

    def measure(self, name: str, entries: Entries, *, everything: bool) -> None:
        tools = self.tools(entries, everything=everything)
        for tool, command in tools.items():  # once for nothing: caches, ControlPersist
            _, done = self.once(command)
            untouched = not (_planned(done.stdout) if tool == "pyinfra --dry" else set())
            assert (done.returncode, untouched) == (0, True), f"{tool}: {done.stdout}{done.stderr}"
        taken: dict[str, list[float]] = {tool: [] for tool in tools}
        worked: dict[str, list[float]] = {tool: [] for tool in tools}
        for _ in range(self.given.runs):
            for tool, command in tools.items():
                before = _processor_time()
                taken[tool].append(self.once(command)[0])
                worked[tool].append(_processor_time() - before)
        medians = {tool: round(statistics.median(times), 2) for tool, times in taken.items()}
        self.result["seconds"][name] = medians
        # What the tool's own process took of the processor: the same whatever else is going on.
        self.result["processor seconds"][name] = {
            tool: round(statistics.median(times), 2) for tool, times in worked.items()
        }
        print(name, medians, {k: [round(x, 2) for x in v] for k, v in taken.items()}, flush=True)

    def once(self, command: list[str]) -> tuple[float, subprocess.CompletedProcess[str]]:
        environment = {
            **os.environ,
            **environment_of(self.lab),
            "ANSIBLE_CONFIG": str(self.place / "ansible.cfg"),
        }
        began = time.monotonic()
        done = subprocess.run(
            command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip
        return time.monotonic() - began, done

    def from_afar(self, hosts: list[Host], milliseconds: float) -> None:
        """Measure behind links on which a round trip takes so long."""
        entries = self.entries(hosts)
        with ExitStack() as stack:
            for one in entries.values():
                link = slow_link(one["ssh_hostname"], 22, round_trip_ms=milliseconds)
                one["ssh_hostname"], one["ssh_port"] = stack.enter_context(link)
                one["ssh_strict_host_key_checking"] = "no"  # the key is another address's
            self.measure(
                f"{len(entries)} hosts, {milliseconds:g} ms away", entries, everything=True
            )

    def look_at(self, host: Host, number: int) -> None:
        """Time a look at so many files of a host's own, and the difference that is made of it."""
        listed = host.root_run("find /usr/lib /usr/share -type f -size -64k | sort").stdout
        paths = listed.splitlines()[:number]
        assert len(paths) == number
        program = question([File(path=path) for path in paths])
        manifest = parse(host.root_run("python3 -I -", input=program).stdout).manifest
        assert len(manifest) == number
        looks: list[float] = []
        compared: list[float] = []
        for _ in range(self.given.runs):
            began = time.monotonic()
            host.root_run("python3 -I -", input=program)
            looks.append(time.monotonic() - began)
            began = time.monotonic()
            assert not diff(manifest, manifest)
            compared.append(time.monotonic() - began)
        self.result.setdefault("files", {})[str(number)] = {
            "look": round(statistics.median(looks), 3),
            "difference": round(statistics.median(compared), 4),
        }

    # What each finds

    def catalogue(self, layers: list[Path], changes: Sequence[Change]) -> None:
        """Make one change on each of so many hosts, and have every tool look once at all."""
        hosts: dict[str, Host] = {}
        found: dict[str, dict[str, bool]] = self.result.setdefault("finds", {})
        try:
            for index, change in enumerate(changes):
                host = hosts[change.id] = self.lab.boot(f"hand-{index}", layers=layers)
                host.root_run(READY)
                host.root_run(f"set -eu\n{change.script}", timeout_s=120)
            names = {f"e{i}": change.id for i, change in enumerate(changes)}
            tools = self.tools(self.entries(list(hosts.values())), everything=True)
            for tool, look in (
                ("drift.py", _drifted),
                ("pyinfra --dry", _planned),
                ("ansible --check", _changed),
            ):
                if tool in tools:
                    _, done = self.once(tools[tool])
                    named = look(done.stdout)
                    each = {change: name in named for name, change in names.items()}
                    found.setdefault(tool, {}).update(each)
        finally:
            for host in hosts.values():
                host.destroy()
        self.result["found"] = {tool: sum(each.values()) for tool, each in found.items()}


def plot(result: dict[str, Any], path: Path) -> None:
    """Draw how the time grows with the entries of an inventory, and with a host's files."""
    figure, (by_host, by_file) = plt.subplots(1, 2, figsize=(9, 3.4))
    rows = {int(name.split()[0]): name for name in result["seconds"] if name.endswith(" entries")}
    for tool, colour in (("connecting alone", "tab:gray"), ("drift.py", "tab:blue")):
        for measure, style in (("seconds", "-"), ("processor seconds", ":")):
            taken = [result[measure][name][tool] for name in rows.values()]
            by_host.plot(list(rows), taken, style, color=colour, label=f"{tool}, {measure}")
    by_host.set(xlabel="inventory entries", ylabel="seconds")
    files = {int(number): taken for number, taken in result.get("files", {}).items()}
    for part, colour in (("look", "tab:blue"), ("difference", "tab:orange")):
        taken = [one[part] for one in files.values()]
        by_file.plot(list(files), taken, color=colour, label=part)
    by_file.set(xlabel="files of one host", ylabel="seconds")
    for axes in (by_host, by_file):
        axes.set(xlim=0, ylim=0)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path)


def _processor_time() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _drifted(text: str) -> set[str]:
    return {host["name"] for host in json.loads(text)["hosts"] if host["verdict"] != "as declared"}


def _planned(text: str) -> set[str]:
    plan = json.loads(text)["plan"]
    # The stamp's own steps say only that something else differs, or that the plan is not empty.
    return {host for one in plan for host in one["hosts_with_change"]}


def _changed(text: str) -> set[str]:
    recap = [line.split() for line in text.partition("PLAY RECAP")[2].splitlines() if ":" in line]
    return {
        words[0]
        for words in recap
        if any(
            w.startswith(("changed=", "failed=", "unreachable=")) and w[-2:] != "=0" for w in words
        )
    }


if __name__ == "__main__":
    main()
