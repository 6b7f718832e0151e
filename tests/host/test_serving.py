"""Instances that serve: a real token through the guard's socket, and no other way in."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
from testinfra.host import Host

from tests.host.declared import Instance

# One request over a unix socket, with what any host has: prints the status and the body as JSON.
ASK = """
import http.client, json, socket, sys
path, method, address, body = sys.argv[1:]
class Connection(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(path)
connection = Connection("localhost")
headers = {"Content-Type": "application/json"}
connection.request(method, address, body or None, headers)
answer = connection.getresponse()
print(json.dumps([answer.status, json.loads(answer.read())]))
"""

# Every process of a unit: its id, its user, its network, what it was started with and has mapped.
PROCESSES = """
import glob, json, os, pwd, sys
found = []
for path in glob.glob("/proc/[0-9]*"):
    try:
        if sys.argv[1] not in open(path + "/cgroup").read():
            continue
        words = open(path + "/cmdline").read().split("\\0")
        maps = {line.split(None, 5)[5] for line in open(path + "/maps").read().splitlines()
                if line.count(" ") > 5 and "/" in line}
        links = [l.split(":")[0].strip() for l in open(path + "/net/dev").read().splitlines()[2:]]
        found.append({"pid": int(path[6:]), "user": pwd.getpwuid(os.stat(path).st_uid).pw_name,
                      "network": os.readlink(path + "/ns/net"), "interfaces": links,
                      "command": words, "maps": sorted(maps)})
    except (FileNotFoundError, ProcessLookupError):
        continue
print(json.dumps({"host": os.readlink("/proc/1/ns/net"), "processes": found}))
"""


@dataclass(frozen=True, slots=True)
class Api:
    """An instance's API, asked on the host itself, through the guard's socket."""

    host: Host
    socket: str

    def __call__(self, method: str, address: str, **body: object) -> tuple[int, dict[str, Any]]:
        text = json.dumps(body) if body else ""
        command = "python3 -I -c %s %s %s %s %s"
        answer = self.host.check_output(command, ASK, self.socket, method, address, text)
        status, content = json.loads(answer)
        return status, content


@pytest.fixture
def api(host: Host, instance: Instance) -> Api:
    """Of an instance that answers; the ranks behind it have none."""
    if instance.rank:
        pytest.skip("rank 0 answers, which is on another host")
    return Api(host, f"/run/mlx-hosts/{instance.name}/api.sock")


@pytest.fixture
def processes(host: Host, instance: Instance) -> list[dict[str, Any]]:
    """The processes of the instance's unit; the first that runs the engine's Python is its."""
    answer = json.loads(host.check_output("python3 -I -c %s %s", PROCESSES, instance.unit))
    return [{**one, "alone": one["network"] != answer["host"]} for one in answer["processes"]]


def test_a_token_is_generated(api: Api, instance: Instance) -> None:
    """A completion through the socket is answered with one token of the served model."""
    status, answer = api(
        "POST", "/v1/completions", model=instance.model["name"], prompt="1", max_tokens=1
    )
    assert status == 200, answer
    assert answer["model"] == instance.model["name"]
    assert answer["usage"]["completion_tokens"] == 1


def test_the_served_name_is_the_only_model(api: Api, instance: Instance) -> None:
    """The API lists the served name alone, and refuses to load any other model."""
    status, answer = api("GET", "/v1/models")
    assert (status, [model["id"] for model in answer["data"]]) == (200, [instance.model["name"]])
    status, answer = api(
        "POST", "/v1/completions", model="mlx-community/another", prompt="1", max_tokens=1
    )
    assert status == 404, answer


def test_the_instance_says_that_it_is_ready(host: Host, instance: Instance) -> None:
    """Its own word is the state `ready`, for this instance."""
    status, answer = Api(host, f"/run/mlx-hosts/{instance.name}/api.sock")("GET", "/health")
    assert (status, answer["state"], answer["instance"]) == (200, "ready", instance.name)


def test_the_settings_are_what_the_inventory_says(
    host: Host, instance: Instance, settings: dict[str, Any]
) -> None:
    """Model, name, context and load are the inventory's; the file is root's, in one spelling."""
    assert settings["instance"] == instance.name
    assert settings["slug"] == instance.slug
    assert settings["served_name"] == instance.model["name"]
    assert settings["model"] == instance.snapshot
    assert settings["context_tokens"] == instance.model["context"]
    assert 0 < settings["concurrency"] <= instance.model.get("concurrency", 4)
    assert settings["socket"] == f"/run/mlx-hosts/{instance.name}/api.sock"
    assert bool(settings["gpu_uuids"]) == instance.host.gpu
    path = instance.settings
    assert host.check_output("stat -c '%%F %%a %%U %%G' %s", path) == "regular file 644 root root"
    assert host.run("cat %s", path).stdout == json.dumps(settings, indent=1, sort_keys=True) + "\n"


def test_it_runs_from_its_present_settings(
    host: Host, instance: Instance, settings: dict[str, Any]
) -> None:
    """What the guard was started from is what stands in its settings now."""
    inputs = host.check_output("cat %s", f"/run/mlx-hosts/{instance.name}/inputs")
    assert inputs == settings["inputs"]


def test_every_process_is_the_services_own(
    processes: list[dict[str, Any]], settings: dict[str, Any]
) -> None:
    """Guard and engine run as `mlx`, the engine from its runtime, nothing from deleted files."""
    assert {one["user"] for one in processes} == {"mlx"}
    pythons = {one["command"][0] for one in processes}
    assert f"{settings['runtime']}/bin/python" in pythons
    assert all(path.startswith("/opt/mlx-hosts/") for path in pythons), pythons
    mapped = [path for one in processes for path in one["maps"]]
    assert any(path.startswith(settings["runtime"]) and "libmlx" in path for path in mapped)
    ours = ("/opt/mlx-hosts/", "/var/lib/mlx-hosts/")
    assert [path for path in mapped if path.startswith(ours) and "(deleted)" in path] == []


def test_no_process_has_a_network(processes: list[dict[str, Any]], fabric: list[str]) -> None:
    """Guard and engine are in a network of their own with nothing in it but a loopback."""
    assert processes
    if fabric:
        pytest.skip("its ranks are on several hosts: packets are judged by their addresses")
    assert all(one["alone"] for one in processes)
    assert {name for one in processes for name in one["interfaces"]} == {"lo"}


def test_only_the_services_group_reaches_the_socket(host: Host, instance: Instance) -> None:
    """The socket and its directory are `mlx`'s and closed to others; so is the cache."""
    expected = {
        f"/run/mlx-hosts/{instance.name}": "directory 750 mlx mlx",
        f"/run/mlx-hosts/{instance.name}/api.sock": "socket 660 mlx mlx",
        f"/var/cache/mlx-hosts/{instance.name}": "directory 700 mlx mlx",
    }
    if not instance.rank:
        expected[f"/run/mlx-hosts/{instance.name}/engine.sock"] = "socket 750 mlx mlx"
    for path, words in expected.items():
        assert host.check_output("stat -c '%%F %%a %%U %%G' %s", path) == words, path
