"""Trace one hollow checkpoint: ``python -P -m planner.hollow DIRECTORY PROCESSOR SIZES``.

``cpu``, ``gpu`` or ``older gpu``; sizes of groups, with commas in between. JSON on stdout: those
parts of the trace that no other process has begun in this directory, so that several share the
work.

Exit status 0: traced, or refused with ``{"refused": reason, "at": number of the part}``; anything
else is a crash.
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    import planner.hollow.bare  # noqa: F401 -- before anything of mlx-lm

import mlx.core as mx
from mlx_lm._version import __version__ as mlx_lm_version
from mlx_lm.utils import get_total_parameters

from planner.demand import CPU
from planner.hollow import loading, program, sliced, views, work
from planner.hollow import model as hollow
from planner.hollow.passes import Passes
from planner.traced import PROCESSORS, Processor, endings, joined


def trace(
    directory: Path,
    processor: Processor,
    sizes: Sequence[int],
    *,
    moves: Sequence[str] = (),
    mine: Callable[[str], bool] = lambda _: True,
) -> dict[str, Any]:
    """Everything that the lock keeps of the model in ``directory``; ``moves`` are not kept.

    Of groups of ``sizes``. ``mine`` says of a part of it, by name, whether to do it; the rest is as
    in ``program.parts``.
    """
    model, config = hollow.load(directory)
    text = config.get("text_config") or config
    seen: set[tuple[str, int]] = set()
    with hollow.watched_attention(seen):
        examples, scores = hollow.examples(model)
    head_dims = sorted({size for _, size in seen})
    dtype = ", ".join(sorted({dtype for dtype, _ in seen}))
    server = Passes(model, examples, merged=hollow.mergeable(model))
    with server.fewer(server.told.kinds) as fewer:
        alone = hollow.why_alone(model, len(fewer.caches))
    prompts, tokens = program.parts(
        server,
        processor,
        batched=not alone,
        ends=endings(processor, dtype, head_dims),
        moves=moves,
    )
    answer: dict[str, Any] = {"programs": {}}

    def whole() -> program.Programs:
        took, assumed = loads(directory)
        beyond = views.beyond(server)
        ranks = {str(size): rank(model, size, beyond) for size in sizes if size > 1}
        ranks["1"] = {
            "weights": sum(sliced.sizes(model).values()),
            "kinds": hollow.kinds(examples, beyond),
        }
        answer.update(
            mlx_lm=mlx_lm_version,
            mlx=mx.__version__,  # type: ignore[attr-defined]
            model_type=config["model_type"],
            layers=len(model.layers),
            parameters=int(get_total_parameters(model)),  # type: ignore[no-untyped-call]
            alone=alone,
            context_max=longest(text.get("max_position_embeddings")),
            head_dims=head_dims,
            dtype=dtype,
            logits_row_bytes=int(scores.nbytes),
            loading=took,
            assumed=assumed,
            ranks=ranks,
        )
        return {}

    # What takes longest comes first, so that processes that share the work end together.
    for name, make in {**prompts, "model": whole, **tokens}.items():
        if mine(name):
            made = {key: work.packed(one) for key, one in make().items()}
            answer["programs"] = joined(answer["programs"], made)
    return answer


def longest(said: object) -> int | None:
    """Tokens of the longest context, of what a configuration says of it; None where that is none.

    Some write `131072.0` or `1e6`.
    """
    whole = int(said) if isinstance(said, float) and said.is_integer() else said
    return whole if isinstance(whole, int) and whole is not True and whole > 0 else None


def loads(directory: Path) -> tuple[int, list[str]]:
    """Bytes that loading takes over the weights, and what is assumed of it."""
    try:
        return loading.transient(directory, CPU.behind.lag), []
    except Exception as error:  # noqa: BLE001 -- then as much again as the files is assumed
        files = directory.glob("model*.safetensors")
        return sum(file.stat().st_size for file in files), [
            f"loading takes the files' bytes again: it cannot be recorded ({error})"
        ]


def rank(whole: Any, size: int, beyond: Sequence[dict[str, int]] = ()) -> dict[str, Any] | str:  # noqa: ANN401 -- mlx has no types
    """One of ``size`` ranks, or the sentence that says why there is none.

    ``beyond`` is what the whole model's caches keep alive (``views.beyond``), and a rank's no more
    than they: MLX cannot export a rank's own graph.
    """
    if not hasattr(whole, "shard"):
        return "its architecture has no `shard` in this mlx-lm"
    # The server's ranks load the whole one, lazily (mlx_lm/utils.py, `sharded_load`).
    model = hollow.another(whole)
    try:
        model.shard(hollow.StandIn(size))
        weights = sliced.kept(model, sliced.sizes(whole))
        return {"weights": weights, "kinds": hollow.kinds(hollow.examples(model)[0], beyond)}
    except Exception as error:  # noqa: BLE001 -- whatever it raises, the real rank would raise
        return str(error) or type(error).__name__


class Shared:
    """The parts of a trace, of which each is done by the process that is the first to begin it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.asked = 0  # in the same order by all

    def __call__(self, part: str) -> bool:
        self.asked += 1
        try:
            (self.directory / f"begun {part}").mkdir()
        except FileExistsError:
            return False
        return True


def main(arguments: list[str]) -> int:
    directory, sizes = Path(arguments[0]), [int(size) for size in arguments[2].split(",")]
    (processor,) = (one for one in PROCESSORS if one == arguments[1])
    gc.disable()  # a graph is many small objects, and the process ends with the trace
    mx.set_default_device(mx.cpu)
    said = io.StringIO()
    mine = Shared(directory)
    refused = ""
    try:
        with program.cpu(), contextlib.redirect_stdout(said):
            answer = trace(directory, processor, sizes, mine=mine)
    except SystemExit:  # `olmo` ends the process where a package of its own is not there
        refused = f"its module ends the process: {' '.join(said.getvalue().split())}"
    except hollow.Refused as error:
        refused = str(error)
    except MemoryError:  # of the trace, not of the model
        raise
    except Exception as error:  # noqa: BLE001 -- whatever mlx-lm raises is the reason
        refused = f"{type(error).__name__}: {error}"
    print(json.dumps({"refused": refused, "at": mine.asked} if refused else answer))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
