"""The throwaway hosts of `python -m lab up`, each serving the lab's small model on its CPU."""

import json
import os
from pathlib import Path

_state = Path(os.environ.get("MLX_HOSTS_LAB_STATE", Path(__file__).parents[1] / ".lab"))
_lab = json.loads((_state / "inventory.json").read_text())
_model = "lab/SmolLM2-135M-Instruct"

lab = [
    (name, {key: value for key, value in connection.items() if key.startswith("ssh_")})
    for name, connection in _lab["hosts"].items()
]

lab = (
    lab,
    {
        "flavour": "cpu",
        "memory_bytes": 4 * 1024**3,  # each; the machine below is shared by all of them
        "models": [
            {
                "repo": _model,
                "revision": _lab["hub"]["models"][_model],
                "name": "SmolLM2-135M-Instruct",
                "context": 2048,
                "concurrency": 2,
            }
        ],
        "hub": {"endpoint": _lab["hub"]["endpoint"]},
        "site": {"environment": _lab["download_environment"]},
        "models_lock": str(_state / "models.lock"),
    },
)
