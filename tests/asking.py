"""A question to a served model, asked on its own host through the guard's socket."""

from __future__ import annotations

import json
from typing import Any

from lab import Host

ASK = """
import http.client, json, socket
class Api(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect("/run/mlx-hosts/{instance}/api.sock")
api = Api("guard")
api.request("POST", "/v1/completions", json.dumps(
    {{"model": "{model}", "prompt": "hello", "max_tokens": 8, "temperature": 0}}))
print(api.getresponse().read().decode())
"""


def say(host: Host, instance: str, model: str) -> dict[str, Any]:
    """The whole answer to a greedy completion."""
    script = ASK.format(instance=instance, model=model)
    return dict(json.loads(host.root_run("python3 -", input=script, timeout_s=90).stdout))
