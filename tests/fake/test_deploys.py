"""Whole deploys, on hosts that are not there: who is touched, who is not, and what is said."""

from __future__ import annotations

import pytest

from tests.fake.fakes import Fakes

# RHEL 9, which needs another glibc than it has, and has two cards: all of it is told at once.
REFUSED = {"look": "rhel-9", "data": {"flavour": None}}
REASONS = ["Debian 12 or newer", "glibc 2.35 or newer", "found glibc 2.34"]


def test_a_second_run_has_nothing_to_do(fakes: Fakes) -> None:
    """A deploy takes a bare host all the way; the next one, and a dry run, change nothing."""
    fakes.declare(one={})
    first = fakes.run("-y", "--json")
    assert first.returncode == 0, str(first)
    assert "Serving | Start mlx-model@tiny.0.service" in first.changed
    told = fakes.told("one")
    for arguments in (("-y", "--json"), ("--dry", "--json")):
        again = fakes.run(*arguments)
        assert (again.returncode, again.changed) == (0, {}), str(again)
    assert fakes.told("one") == told


def test_the_stamp_is_first_and_last(fakes: Fakes) -> None:
    """What is intended is written before the first change, what was done after the last one."""
    fakes.declare(one={})
    fakes.run("-y", "--json")
    told = fakes.told("one")
    stamps = [index for index, command in enumerate(told) if "stamp.json" in command]
    makes = [index for index, command in enumerate(told) if "mkdir -p" in command]
    assert (makes[0], stamps[0], stamps[-1]) == (0, 1, len(told) - 1)


def test_a_dry_run_tells_a_host_nothing(fakes: Fakes) -> None:
    """Every change is in the plan, and none is made."""
    fakes.declare(one={})
    run = fakes.run("--dry", "--json")
    assert run.returncode == 0, str(run)
    assert len(run.changed) > 8
    assert fakes.told("one") == []


def test_a_host_with_cards_serves_on_them(fakes: Fakes) -> None:
    """Two cards and no flavour: the CUDA runtime, the device nodes first, the GPU's drop-in."""
    fakes.declare(gpu={"look": "two_rtx_pro_6000", "data": {"flavour": None, "memory_bytes": None}})
    run = fakes.run("-y", "--json")
    assert run.returncode == 0, str(run)
    assert {"Base | Hold NVIDIA's driver packages"} <= {one["name"] for one in run.json["plan"]}
    assert "Runtime | Build the cuda13 runtime" in run.changed
    told = "\n".join(fakes.told("gpu"))
    ready, model = "start mlx-gpu-ready.service", "start mlx-model@tiny.0.service"
    assert 0 < told.index(ready) < told.index(model)
    assert "20-gpu.conf" in told


@pytest.mark.parametrize("arguments", ["-y", "-y --json", "--json", "--dry", "--dry --json", ""])
def test_a_refused_host_is_left_alone_and_the_others_go_on(fakes: Fakes, arguments: str) -> None:
    """In every kind of run without a terminal: every reason, the host's name, exit status 1."""
    fakes.declare(one={}, refused=REFUSED, other={})
    run = fakes.run(*arguments.split())
    assert run.returncode == 1, str(run)
    assert "@fake/refused is refused" in run.stderr
    assert [reason for reason in REASONS if reason not in run.stderr] == []
    assert "Traceback" not in run.stderr
    assert fakes.told("refused") == []
    for name in ("one", "other"):
        served = any("mlx-model@tiny.0.service" in command for command in fakes.told(name))
        assert served == ("-y" in arguments), name
    if arguments == "":
        assert "there is nobody to ask" in run.stderr


def test_a_host_that_gives_no_answer_drops_out(fakes: Fakes) -> None:
    """Where the probe comes to nothing, nothing is decided by it; the other host is served."""
    fakes.declare(one={}, mute={"responses": {"probe": ["Segmentation fault"]}})
    run = fakes.run("-y", "--json")
    assert run.returncode == 1, str(run)
    assert "no answer" in run.stderr
    assert fakes.told("mute") == []
    assert any("mlx-model@tiny.0.service" in command for command in fakes.told("one"))


def test_a_command_that_fails_ends_its_host_alone(fakes: Fakes) -> None:
    """The host whose package manager fails stops there, unfinished; the other one is served."""
    fakes.declare(
        one={}, broken={"responses": {"apt-get": {"success": False, "stderr": "E: locked"}}}
    )
    run = fakes.run("-y", "--json")
    assert run.returncode == 1, str(run)
    assert "E: locked" in run.stderr
    assert run.json["results"]["failed_hosts"] == ["@fake/broken"]
    assert fakes.told("broken")[-1].count("apt-get")
    assert any("mlx-model@tiny.0.service" in command for command in fakes.told("one"))


def test_a_model_that_does_not_fit_is_told_and_the_others_served(fakes: Fakes) -> None:
    """What does not fit is neither fetched nor served, and the exit status says so."""
    (tiny,) = fakes.common["models"]
    large = {**tiny, "name": "large", "context": 256_000, "concurrency": 64}
    fakes.declare(one={"data": {"models": [tiny, large], "memory_bytes": 2 * 1024**3}})
    run = fakes.run("-y", "--json")
    assert run.returncode == 1, str(run)
    assert "not served" in run.stderr
    told = "\n".join(fakes.told("one"))
    assert "mlx-model@tiny.0.service" in told
    assert "mlx-model@large.0.service" not in told
