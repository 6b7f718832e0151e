"""What an operator gets wrong in an inventory: all told at once, before any host is touched."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.fake.fakes import Fakes

MODEL = {"path": "/srv/model", "name": "one", "context": 2048}
REPO = {"repo": "a/b", "name": "two", "context": 2048}

# Each mistake, and the one line that tells it.
MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "a model without revision": (
        {"models": [REPO]},
        "@fake/one: models.0: a `repo` needs a `revision`: the commit's 40 hexadecimal digits",
    ),
    "an unknown key": ({"modles": [MODEL]}, "@fake/one: modles: unknown; the keys are "),
    "a wrong type": (
        {"models": [{**MODEL, "context": "many"}]},
        "@fake/one: models.0.context: input should be a valid integer",
    ),
    "a served name used twice": (
        {"models": [MODEL, {**MODEL, "slug": "other"}]},
        "@fake/one: models: name used twice: `one`",
    ),
    "a GPU that is not there": (
        {"flavour": "cuda13", "gpus": ["NVIDIA H200"], "models": [{**MODEL, "gpus": [1]}]},
        "@fake/one: models.one: pinned to GPU 1, which is not there: the host declares 1",
    ),
}


def told(stderr: str) -> list[str]:
    """Give the lines of a run's one error."""
    before, error, lines = stderr.partition("pyinfra error")
    assert error, stderr
    assert "Connected" not in before
    assert "Traceback" not in stderr
    return [line for line in lines.splitlines()[1:] if line.startswith("@fake/")]


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_clear_line(fakes: Fakes, name: str) -> None:
    """It names the host, the thing, and what it should be; nothing is connected to; exit 1."""
    data, line = MISTAKES[name]
    fakes.declare(one={"data": data}, other={})
    run = fakes.run("-y", "--json")
    assert run.returncode == 1, str(run)
    (only,) = told(run.stderr)
    assert only.startswith(line)
    assert (run.stdout, fakes.told("one"), fakes.told("other")) == ("", [], [])


def test_all_mistakes_of_one_inventory_are_told_at_once(fakes: Fakes) -> None:
    """Every mistake of every host is in the one error, in a dry run as well."""
    data = {
        "modles": [],
        "flavour": "cuda13",
        "gpus": ["NVIDIA H200"],
        "models": [{**MODEL, "gpus": [1]}, {**MODEL, "context": "many", "slug": "x"}, REPO],
    }
    fakes.declare(one={"data": data}, other={"data": {"flavour": "rocm"}})
    run = fakes.run("--dry")
    lines = told(run.stderr)
    assert run.returncode == 1, str(run)
    expected = [line for _, line in MISTAKES.values()]
    expected[0] = expected[0].replace("models.0", "models.2")
    expected[2] = expected[2].replace("models.0", "models.1")
    for line in [*expected, "@fake/other: flavour: "]:
        assert sum(one.startswith(line) for one in lines) == 1, (line, lines)
    assert len(lines) == 6, lines


@pytest.mark.parametrize("path", ["inventories/gup.py", "/nowhere/gup.py", "inventories", "gup"])
@pytest.mark.parametrize("arguments", ["-y", "--dry --json"])
def test_an_inventory_that_is_not_there_is_an_error(
    fakes: Fakes, path: str, arguments: str
) -> None:
    """A mistyped path is taken neither for nothing to do, which is green, nor for a host's name."""
    run = fakes.run(*arguments.split(), inventory=path)
    assert run.returncode == 1, str(run)
    assert "Traceback" not in run.stderr
    assert "pyinfra error" in run.stderr


def test_an_inventory_without_hosts_is_an_error(fakes: Fakes) -> None:
    """Nothing to do is not the same as everything being done."""
    fakes.declare()
    run = fakes.run("-y")
    assert run.returncode == 1, str(run)
    assert "the inventory has no hosts" in run.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--limit", "@fake/two"], "`--limit @fake/two` matches no host of the inventory"),
        (["--limit", "@fake/one", "--limit", "tow"], "`--limit tow` matches no host"),
        (["--exclude", "two"], "`--exclude two` matches no host of the inventory"),
        (["--exclude", "@fake/*"], "`--limit` and `--exclude` leave no host"),
    ],
)
def test_a_word_that_matches_no_host_is_an_error(
    fakes: Fakes, options: list[str], message: str
) -> None:
    """A mistyped host is neither left out in silence nor touched in spite of an `--exclude`."""
    fakes.declare(one={}, other={})
    run = fakes.run("-y", *options)
    assert run.returncode == 1, str(run)
    assert message in run.stderr
    assert (fakes.told("one"), fakes.told("other")) == ([], [])


def test_an_inventory_that_does_not_parse_is_one_error(fakes: Fakes) -> None:
    """A slip in Python is told with its file and line."""
    fakes.declare(one={})
    inventory = fakes.directory / "fakes.py"
    inventory.write_text(inventory.read_text() + "\nfakes = [\n")
    run = fakes.run("-y")
    assert run.returncode == 1, str(run)
    assert "fakes.py" in run.stderr


def test_a_secret_that_is_not_there_stops_the_run(fakes: Fakes) -> None:
    """A token that the inventory names and nobody gave is told before anything changes."""
    hub = {**fakes.common["hub"], "token": {"env": "NO_SUCH_TOKEN"}}
    fakes.declare(one={"data": {"hub": hub}})
    run = fakes.run("-y", "--json")
    assert run.returncode == 1, str(run)
    assert "the environment has no `NO_SUCH_TOKEN`" in run.stderr
    assert fakes.told("one") == []
    assert json.dumps(run.stdout) == '""'
