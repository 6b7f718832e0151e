"""mlx_lm.server (mlx-lm 0.32): its command, its environment, its probe."""

from __future__ import annotations

import os
from pathlib import Path

from guard.config import Config

LAUNCHER = Path(__file__).with_name("mlx_launcher.py")


def command(config: Config, port: int) -> list[str]:
    """``-I`` keeps the launcher's folder and every PYTHON variable out of the engine."""
    return [
        f"{config.runtime}/bin/python",
        "-I",
        str(LAUNCHER),
        *(
            ["--guard-memory-limit", str(config.memory_limit_bytes)]
            if config.memory_limit_bytes is not None
            else []
        ),
        *(
            ["--guard-cache-limit", str(config.cache_limit_bytes)]
            if config.cache_limit_bytes is not None
            else []
        ),
        *("--model", config.model),
        *("--host", "127.0.0.1"),
        *("--port", str(port)),
        *("--log-level", "WARNING"),
        *("--prompt-concurrency", str(config.prompt_concurrency)),
        *("--decode-concurrency", str(config.decode_concurrency)),
        *("--prefill-step-size", str(config.prefill_step)),
        *("--prompt-cache-size", str(config.prompt_cache_entries)),
    ]


def environment(config: Config) -> dict[str, str]:
    """Made from nothing, so that no credential of the unit's can reach the engine."""
    return {
        "PATH": f"{config.runtime}/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "TZ": os.environ.get("TZ", "UTC"),
        "HOME": config.cache_dir,
        "TMPDIR": config.cache_dir,
        "HF_HOME": f"{config.cache_dir}/huggingface",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "MLX_PTX_CACHE_DIR": f"{config.cache_dir}/ptx",
        "CUDA_CACHE_PATH": f"{config.cache_dir}/nv",
        "CUDA_VISIBLE_DEVICES": ",".join(config.gpu_uuids),
        **config.engine_environment,
    }
