"""Compiled kernels are kept for what they were compiled for, and no longer than they are good."""

from __future__ import annotations

from pathlib import Path

from guard.config import Config
from guard.engines import mlx


def config(cache: Path, *, runtime: str = "a1", gpu: str = "GPU-1") -> Config:
    return Config.model_validate(
        {
            "instance": "tiny.0",
            "slug": "tiny",
            "served_name": "tiny",
            "runtime": f"/opt/mlx-hosts/runtimes/{runtime}",
            "model": "/model",
            "context_tokens": 64,
            "concurrency": 1,
            "prompt_concurrency": 1,
            "decode_concurrency": 1,
            "gpu_uuids": (gpu,),
            "socket": "/s",
            "run_dir": "/r",
            "cache_dir": str(cache),
            "inputs": "x",
        }
    )


def kernels(told: Config) -> Path:
    return Path(mlx.environment(told)["MLX_PTX_CACHE_DIR"])


def test_another_runtime_or_gpu_compiles_its_own(tmp_path: Path) -> None:
    """MLX names them by neither; those of the one before are cleared away."""
    old = config(tmp_path)
    mlx.keep_kernels(old)
    (kernels(old) / "copy.ptx").write_text("kernel")
    mlx.keep_kernels(old)
    assert (kernels(old) / "copy.ptx").exists()
    for new in (config(tmp_path, runtime="b2"), config(tmp_path, gpu="GPU-2")):
        mlx.keep_kernels(new)
        assert list(kernels(new).parent.iterdir()) == [kernels(new)]
        assert list(kernels(new).iterdir()) == []


def test_those_of_an_engine_that_died_over_them_are_forgotten(tmp_path: Path) -> None:
    """Half a file, from a full disk or a power cut, would be loaded at every start."""
    told = config(tmp_path)
    mlx.keep_kernels(told)
    (kernels(told) / "copy.ptx").write_text("")
    mlx.forget_kernels(told)
    assert not kernels(told).exists()
    mlx.forget_kernels(told)


def test_a_full_disk_is_no_reason_not_to_start(tmp_path: Path) -> None:
    """MLX compiles without a cache, too."""
    (tmp_path / "ptx").write_text("in the way")
    mlx.keep_kernels(config(tmp_path))
