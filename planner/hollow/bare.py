"""mlx-lm without what a trace has no use for: it takes three times as long to import as the rest.

mlx-lm imports tokenizers (``transformers``) and the hub's client (``huggingface_hub``) before it
can build a model; a trace reads no text and no network. Nor does it generate or convert, which
``import mlx_lm`` itself brings along, with numpy. Import this before anything of mlx-lm; a process
in which they are there already is left alone.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from types import ModuleType
from typing import Any

NAMES = ("huggingface_hub", "transformers", "transformers.tokenization_utils_base")


class Absent:
    """Stands for anything of theirs: can be named and subclassed, and does nothing."""

    @classmethod
    def register(cls, *_: Any, **__: Any) -> None:  # noqa: ANN401 -- whatever mlx-lm registers
        """``AutoTokenizer.register``, which mlx-lm calls when it is imported."""


class _Hollow(ModuleType):
    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 -- any name of a module
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (Absent,), {})


for _name in NAMES:
    if _name not in sys.modules:
        made = _Hollow(_name)
        made.__path__ = []
        sys.modules[_name] = made

if "mlx_lm" not in sys.modules and (_spec := find_spec("mlx_lm")):
    _package = sys.modules["mlx_lm"] = ModuleType("mlx_lm")
    _package.__path__ = list(_spec.submodule_search_locations or ())
