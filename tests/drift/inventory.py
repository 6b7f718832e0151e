"""All hosts of a lab, each serving two lines of nonsense: a model that loads in no time."""

import json
import os
from pathlib import Path

_state = Path(os.environ["MLX_HOSTS_LAB_STATE"])
_lab = json.loads((_state / "inventory.json").read_text())
_model = "lab/tiny-llama"

_hosts = {**_lab["hosts"], **json.loads(os.environ.get("MORE_HOSTS", "{}"))}

lab = (
    [
        (name, {key: value for key, value in connection.items() if key.startswith("ssh_")})
        for name, connection in _hosts.items()
    ],
    {
        "flavour": "cpu",
        "memory_bytes": 2 * 1024**3,
        "models": [
            {
                "repo": _model,
                "revision": _lab["hub"]["models"][_model],
                "name": "nonsense",
                "context": 256,
                "concurrency": 1,
                **json.loads(os.environ.get("MORE_OF_THE_MODEL", "{}")),
            }
        ],
        "hub": {"endpoint": _lab["hub"]["endpoint"]},
        "site": {"environment": _lab["download_environment"]},
        "models_lock": str(_state / "models.lock"),
        "tolerated": json.loads(os.environ.get("TOLERATED", "[]")),
    },
)
