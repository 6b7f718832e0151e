"""`./drift.py` as a user runs it: how it ends where no host could be asked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*words: str | Path) -> tuple[int, str, str]:
    """Give exit status, stdout, stderr."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "drift.py"), *map(str, words)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
        timeout=60,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "Missing argument 'INVENTORY'"),
        (["inventories/gpu.py", "--jsn"], "No such option '--jsn'"),
        (["inventories/gpu.py", "--seconds", "many"], "'many' is not a valid float"),
    ],
)
def test_a_mistake_in_the_options_is_one_line_and_no_drift(words: list[str], says: str) -> None:
    """2 would be drift, which a timer takes for success."""
    status, out, err = run(*words)
    assert (status, out) == (1, "")
    assert says in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("raise RuntimeError('no')", "RuntimeError: no"),
        ("raise SystemExit(0)", "SystemExit: 0"),
        ("raise SystemExit(2)", "SystemExit: 2"),
        ("def (", "SyntaxError"),
        ("gpu = [('h', {'gpuz': 1})]", "gpuz: unknown"),
    ],
)
def test_an_inventory_that_is_wrong_ends_with_1(tmp_path: Path, content: str, says: str) -> None:
    """Whatever it does, it is not taken for hosts that are as declared."""
    path = tmp_path / "bad.py"
    path.write_text(content)
    status, out, _ = run(path)
    assert status == 1
    assert says in out


@pytest.mark.parametrize("option", ["--html", "--junit", "--metrics", "--svg"])
@pytest.mark.parametrize("path", ["/nowhere/report", "/"])
def test_a_report_that_cannot_be_written_is_told_before_any_host_is_asked(
    tmp_path: Path, option: str, path: str
) -> None:
    """Nor is the inventory read."""
    inventory = tmp_path / "inventory.py"
    inventory.write_text(f"open({str(tmp_path / 'read')!r}, 'w')")
    status, out, err = run(inventory, option, path)
    assert (status, out) == (1, "")
    assert err == f"{option}: {path}: expected a file in a directory that can be written to\n"
    assert not (tmp_path / "read").exists()
