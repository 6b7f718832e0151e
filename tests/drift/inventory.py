"""All hosts of a lab, each serving two lines of nonsense: a model that loads in no time.

``TOGETHER`` names the hosts that serve it as one; then there are no others.
"""

import json
import os
from pathlib import Path

_state = Path(os.environ["MLX_HOSTS_LAB_STATE"])
_lab = json.loads((_state / "inventory.json").read_text())
_model = "lab/tiny-llama"

_hosts = {**_lab["hosts"], **json.loads(os.environ.get("MORE_HOSTS", "{}"))}
_together = os.environ.get("TOGETHER", "").split()
_spanned = {"ranks": len(_together), "hosts_spanned": len(_together)} if _together else {}


def _host(connection: dict) -> dict:
    data = {key: value for key, value in connection.items() if key.startswith("ssh_")}
    return {**data, **({"fabric": data["ssh_hostname"]} if _together else {})}


lab = (
    [(name, _host(_hosts[name])) for name in _together or _hosts],
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
                **_spanned,
                **json.loads(os.environ.get("MORE_OF_THE_MODEL", "{}")),
            }
        ],
        "hub": {"endpoint": _lab["hub"]["endpoint"]},
        "site": {"environment": _lab["download_environment"]},
        "models_lock": str(_state / "models.lock"),
        "tolerated": json.loads(os.environ.get("TOLERATED", "[]")),
    },
)
