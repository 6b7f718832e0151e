"""What a host is like: its probe, and an answer from the model that it serves."""

from __future__ import annotations

import json
from dataclasses import replace

from facts.probe import parse, question
from lab import Host
from manifest.difference import diff
from manifest.layout import STAMP
from manifest.manifest import Manifest
from manifest.resources import File
from manifest.stamp import Stamp, loads

_ASK = """
import json, socket
api = socket.socket(socket.AF_UNIX)
api.settimeout(60)
api.connect("/run/mlx-hosts/{instance}/api.sock")
body = json.dumps({{"model": "tiny", "prompt": "1 2 3", "max_tokens": 2}})
head = "POST /v1/completions HTTP/1.0\\r\\nHost: host\\r\\nContent-Type: application/json\\r\\n"
api.sendall(f"{{head}}Content-Length: {{len(body)}}\\r\\n\\r\\n{{body}}".encode())
print(b"".join(iter(lambda: api.recv(1 << 16), b"")).decode())
"""


def stamp(host: Host) -> Stamp:
    """Read its stamp."""
    return loads(host.root_run("cat /etc/mlx-hosts/stamp.json").stdout)


def probe(host: Host, expected: Manifest, *, deep: bool = False) -> Manifest:
    """Look at it from outside, with the program that deploys look with."""
    done = host.root_run("python3 -I -", input=question(expected, deep=deep), timeout_s=300)
    answer = parse(done.stdout)
    assert answer.problems == ()
    # The stamp's text has the time of the run in it.
    return Manifest(
        tuple(
            replace(one, sha256=None) if isinstance(one, File) and one.path == STAMP else one
            for one in answer.manifest
        )
    )


def differences(host: Host, expected: Manifest, *, deep: bool = False) -> list[str]:
    """Say what on it is not as expected."""
    return [str(one) for one in diff(expected, probe(host, expected, deep=deep))]


def serves(host: Host, instance: str = "tiny.0") -> bool:
    """Whether its model generates."""
    done = host.root_run(f"python3 -c '{_ASK.format(instance=instance)}'", timeout_s=90)
    head, _, body = done.stdout.partition("\n\n")
    assert " 200 " in head.splitlines()[0], done.stdout
    return json.loads(body)["usage"]["completion_tokens"] > 0
