"""The planner needs no MLX: only the tracing program, which nobody imports, does."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield node.module or ""
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)


def test_nothing_imports_the_tracing_program_or_mlx():
    """It runs in a child process with limits, by its name."""
    files = [*ROOT.glob("planner/*.py"), *ROOT.glob("hub/*.py"), ROOT / "plan.py"]
    for path in files:
        for module in imported(path):
            assert not module.startswith("planner.hollow"), path
            assert module.partition(".")[0] not in {"mlx", "mlx_lm", "transformers"}, path
