"""Imports point one way; the arrows are those of the design, and this holds them."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Each folder or program of ours, and what of ours it may import besides itself.
ARROWS: dict[str, set[str]] = {
    "planner": set(),
    "manifest": {"planner"},
    "hub": {"planner", "manifest"},
    "facts": {"hub", "planner", "manifest"},
    "operations": {"facts", "hub", "planner", "manifest"},
    "templates": set(),
    "tasks": {"operations", "facts", "hub", "planner", "manifest", "templates"},
    "deploy.py": {"tasks"},
    "config.py": {"facts", "tasks.declared"},
    "plan.py": {"planner", "hub", "manifest", "tasks.declared"},
    "drift.py": {"reports", "facts", "hub", "planner", "manifest", "templates", "tasks.declared"},
    "reports": {"manifest"},
    "inventories": set(),
    "group_data": set(),
    "guard": set(),
    "lab": set(),
    "tests/host": set(),
}
OURS = {Path(name).stem for name in ARROWS if name != "tests/host"} | {"tests"}

# What a module that does nothing but compute has no use for.
OUTSIDE = {"pyinfra", "pyinfra_cli", "huggingface_hub", "socket", "paramiko", "urllib", "http"}


def files(place: str) -> list[Path]:
    """Give the Python files of a folder, or the one program."""
    path = ROOT / place
    return sorted(path.rglob("*.py")) if path.is_dir() else [path] * path.exists()


def imports(path: Path) -> Iterator[str]:
    """Give every module that a file imports, wherever in the file, and names as ``module.name``."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import; name the folder"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


@pytest.mark.parametrize("place", ARROWS)
def test_imports_point_one_way(place: str) -> None:
    """A folder imports itself and the folders below it, and nothing of ours besides."""
    itself = place.removesuffix(".py").replace("/", ".")
    allowed = {itself, *ARROWS[place]}
    for path in files(place):
        for module in imports(path):
            ours = module.partition(".")[0] in OURS
            fits = any(within(module, package) for package in allowed)
            assert fits or not ours, f"{path.relative_to(ROOT)} imports {module}"


def test_every_folder_of_ours_has_its_arrows() -> None:
    """A new folder or program has a place in the order, or this fails."""
    folders = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    programs = {path.name for path in ROOT.glob("*.py")}
    assert folders | programs <= ARROWS.keys()


@pytest.mark.parametrize("place", ["planner", "manifest"])
def test_what_computes_reaches_nothing(place: str) -> None:
    """Planner and manifest know neither pyinfra nor the network."""
    for path in files(place):
        roots = {module.partition(".")[0] for module in imports(path)}
        assert not roots & OUTSIDE, f"{path.relative_to(ROOT)}: {roots & OUTSIDE}"


def test_no_task_imports_another() -> None:
    """The order of tasks is deploy.py's business; what is declared is everybody's."""
    modules = {module.rpartition(".")[0] for module in imports(ROOT / "deploy.py")}
    tasks = modules - {"tasks.declared"}
    assert tasks
    for path in files("tasks"):
        others = [m for m in imports(path) if any(within(m, task) for task in tasks)]
        assert not others, f"{path.relative_to(ROOT)} imports {others}"


def test_only_tasks_read_the_inventory() -> None:
    """`host.data` is read in tasks, and by programs of their own; all below are told."""
    for place in ARROWS.keys() - {"tasks", "plan.py", "drift.py", "tests/host"}:
        for path in files(place):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Attribute) and node.attr == "data":
                    name = node.value.id if isinstance(node.value, ast.Name) else ""
                    assert name != "host", f"{path.relative_to(ROOT)}:{node.lineno}"


def test_the_guard_knows_no_engine_by_name() -> None:
    """What stands outside `guard/engines` takes whichever module the configuration names."""
    engines = {f"guard.engines.{path.stem}" for path in files("guard/engines")}
    for path in (ROOT / "guard").glob("*.py"):
        named = [m for m in imports(path) if any(within(m, engine) for engine in engines)]
        assert not named, f"{path.relative_to(ROOT)} imports {named}"


def test_programs_for_hosts_stand_alone() -> None:
    """What is sent to a host as text needs nothing there but Python and what it says itself."""
    for path in [*ROOT.glob("*/*_program.py")]:
        roots = {module.partition(".")[0] for module in imports(path)}
        assert not roots & OURS, f"{path.relative_to(ROOT)}: {roots & OURS}"
