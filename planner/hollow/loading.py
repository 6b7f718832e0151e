"""What loading takes on top of the weights: copies that mlx-lm's `sanitize` makes on the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from planner.hollow import buffers, graph, work
from planner.hollow.model import load
from planner.hollow.operation import Made, Operation, primitive


def transient(directory: Path, lag: int) -> int:
    """Bytes over the weights at the worst moment of loading, the device ``lag`` dispatches behind.

    Where the parameters are the files' tensors as they are, nothing comes on top.
    """
    read: Any = mx.load
    files = sorted(directory.glob("model*.safetensors"))
    arrays = {
        f"{file.name}|{name}": array for file in files for name, array in read(str(file)).items()
    }

    def from_arrays(given: dict[str, mx.array], path: str) -> dict[str, mx.array]:
        prefix = f"{Path(path).name}|"
        return {n.removeprefix(prefix): a for n, a in given.items() if n.startswith(prefix)}

    def run(**given: mx.array) -> list[mx.array]:
        mx.load = lambda path, *_, **__: from_arrays(given, str(path))
        try:
            model, _ = load(directory)
        finally:
            mx.load = read
        flat: Any = tree_flatten(model.parameters())
        return [array for _, array in flat]

    recorded = _read_when_wanted(graph.record(run, arrays, lambda _: False).ordered())
    return max(0, work.peak(buffers.replay(recorded), lag))


def _read_when_wanted(recorded: graph.Graph) -> graph.Graph:
    """The same graph with each tensor read just before it is first used, as MLX does."""
    steps: list[Operation] = []
    unread = {name: made for name, made in recorded.given.items() if made.sort.shape}
    for step in recorded.operations:
        wanted = [made for name in step.reads if (made := unread.pop(name, None))]
        steps += map(_load, wanted)
        steps.append(step)
    wanted_as_they_are = frozenset(recorded.results)
    steps += [_load(made) for name, made in unread.items() if name in wanted_as_they_are]
    kept = {name: made for name, made in recorded.given.items() if not made.sort.shape}
    return graph.Graph(tuple(steps), kept | unread, recorded.results, frozenset())


def _load(made: Made) -> Operation:
    of = primitive("Load", (made.sort,))
    return Operation(of, (), (made.name,))
