"""A declaration: what it holds, and that its digests change with what it is made of."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from manifest.declaration import Declaration, Model, Sources, declare
from manifest.planned import asked, planned, sources
from manifest.resources import (
    Directory,
    File,
    Instance,
    Runtime,
    Sockets,
    Unit,
    UnitSet,
    Weights,
)
from manifest.weights import Blob, directory, snapshot
from planner.bound import Bound, BoundGpu
from planner.declared import Gpu as PlannedGpu
from planner.declared import Host
from planner.declared import Model as Placed
from planner.traced import Traced
from templates import render
from tests.planner.test_place import traced

COMMIT = "0" * 40
HOST = Host(name="gpu-1", flavour="cpu")
GPU = BoundGpu(
    uuid="GPU-1",
    pci="00000000:41:00.0",
    name="NVIDIA H200",
    memory_bytes=10**11,
    compute_capability="9.0",
    ecc="Enabled",
    power_limit_watts=700.0,
)
BOUND = Bound(
    flavour="cpu",
    architecture="x86_64",
    distribution="debian",
    distribution_version="12",
    kernel="6.1",
    glibc="2.36",
    systemd=252,
    python="/usr/bin/python3",
    python_version="3.11.2",
    memory_bytes=10**10,
    driver=None,
    cuda=None,
    gpus=(),
)
WITH_GPU = replace(BOUND, flavour="cuda13", driver="580.95.05", cuda="13.0", gpus=(GPU,))
MODEL = Model(
    instance="qwen.0",
    snapshot=snapshot("a/b", COMMIT, (Blob(path="config.json", size=3, hash="git:00"),)),
    settings={"served_name": "qwen", "context_tokens": 2048},
)
SOURCES = sources(Path(__file__).parents[2], render)


def declared(
    host: Host = HOST, bound: Bound = BOUND, model: Model = MODEL, texts: Sources = SOURCES
) -> Declaration:
    return declare(host, bound, [model], texts)


def test_a_trace_is_asked_for_the_cards_that_were_found() -> None:
    """Nobody declared them; a host of its span is known by what it declares."""
    alone, wide = (
        Placed(path="/m", name=name, context=2048, hosts_spanned=hosts)
        for name, hosts in (("alone", 1), ("wide", 2))
    )
    old = replace(WITH_GPU, gpus=(replace(GPU, compute_capability="7.5"),))
    host = Host(name="h1", flavour="cuda13", models=(alone,))
    other = Host(name="h2", gpus=("Tesla T4",), flavour="cuda13", fabric="10.0.0.2", models=(wide,))

    assert asked(host, WITH_GPU, [host]) == {host.name: [(alone, "gpu")]}
    assert asked(host, old, [host]) == {host.name: [(alone, "older gpu")]}
    assert asked(other, WITH_GPU, [other]) == {other.name: [(wide, "older gpu")]}


def inputs(declaration: Declaration) -> str | None:
    """What the instance is made of."""
    (instance,) = declaration.serving.of(Instance)
    return instance.inputs


def test_a_declaration_is_the_same_every_time() -> None:
    """Nothing in it is of the moment: no clock, no order of a set, no machine of the operator's."""
    assert declared().manifest == declared().manifest


def relocked(name: str) -> Sources:
    return replace(SOURCES, locks={**SOURCES.locks, name: SOURCES.locks[name] + "# more\n"})


def rendering(template: str) -> Sources:
    def more(name: str, **values: object) -> str:
        return render(name, **values) + ("# more\n" if name == template else "")

    return replace(SOURCES, render=more)


BLOBS = (Blob(path="config.json", size=4, hash="git:00"),)
OTHER_GUARD = replace(SOURCES, guard={**SOURCES.guard, "guard/app.py": "x = 1\n"})
CHANGES: dict[str, dict[str, Any]] = {
    "the engine's lock": {"texts": relocked("cpu")},
    "the guard's lock": {"texts": relocked("guard")},
    "the guard's sources": {"texts": OTHER_GUARD},
    "the unit": {"texts": rendering("mlx-model@.service")},
    "the limits": {"texts": rendering("mlx-model-limits.conf")},
    "a setting": {"model": replace(MODEL, settings={**MODEL.settings, "context_tokens": 4096})},
    "the weights": {"model": replace(MODEL, snapshot=replace(MODEL.snapshot, blobs=BLOBS))},
    "the commit": {"model": replace(MODEL, snapshot=snapshot("a/b", "1" * 40, BLOBS))},
    "the time to stop": {"model": replace(MODEL, stop_timeout_s=90)},
    "the interpreter": {"bound": replace(BOUND, python="/opt/python/bin/python3")},
    "its version": {"bound": replace(BOUND, python_version="3.11.3")},
    "a mount": {"host": HOST.model_copy(update={"mounts": ("/srv",)})},
    "the cards": {"bound": WITH_GPU},
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_makes_another_engine_changes_its_digest(change: str) -> None:
    """The engine that runs is another one as soon as anything is that it is started from."""
    assert inputs(declared(**CHANGES[change])) != inputs(declared())


@pytest.mark.parametrize(
    "change",
    [
        {"texts": relocked("cuda13")},
        {"texts": relocked("uv")},
        {"texts": rendering("needrestart.conf")},
        {"texts": rendering("mlx-model-gpu.conf")},
        {"bound": replace(BOUND, kernel="6.2", memory_bytes=1)},
    ],
)
def test_nothing_else_restarts_it(change: dict[str, Any]) -> None:
    """What a served model is not made of leaves its digest as it is: no restart for that."""
    assert inputs(declared(**change)) == inputs(declared())


@pytest.mark.parametrize(
    ("change", "which"),
    [
        ({"texts": relocked("uv")}, "uv"),
        ({"texts": relocked("guard")}, "guard"),
        ({"texts": OTHER_GUARD}, "guard"),
        ({"texts": relocked("cpu")}, "engine"),
    ],
)
def test_an_environment_moves_alone(change: dict[str, Any], which: str) -> None:
    """Another lock, or other sources, is another directory; the other environments stay."""
    before, after = declared(), declared(**change)
    for name in ("uv", "guard", "engine"):
        moved = getattr(before, name).path != getattr(after, name).path
        assert moved == (name == which), name


def test_every_file_has_its_text() -> None:
    """Each file that is declared by its content: its text is at hand, and its digest is right."""
    import hashlib

    declaration = declared(bound=WITH_GPU)
    files = [one for one in declaration.manifest if isinstance(one, File) and one.sha256]
    assert files
    for file in files:
        text = declaration.contents[file.path]
        assert file.sha256 == hashlib.sha256(text.encode()).hexdigest()
        assert text.endswith("\n")


def test_directories_list_what_is_declared_inside() -> None:
    """A directory that holds nothing else names each file and directory declared in it."""
    declaration = declared(bound=WITH_GPU)
    paths = {one.path for one in declaration.manifest if isinstance(one, File | Directory)}
    for folder in (one for one in declaration.manifest if isinstance(one, Directory)):
        if folder.entries is not None:
            inside = {
                path.removeprefix(f"{folder.path}/").partition("/")[0]
                for path in paths
                if path.startswith(f"{folder.path}/")
            }
            assert inside <= set(folder.entries)


def test_the_settings_hold_what_the_guard_is_told() -> None:
    """Paths and digests are filled in, and the digest is the instance's."""
    declaration = declared()
    settings = json.loads(declaration.contents["/etc/mlx-hosts/instances/qwen.0.json"])
    assert settings["inputs"] == inputs(declaration)
    assert settings["runtime"] == declaration.engine.path
    assert settings["model"] == f"/var/lib/mlx-hosts/hub/models--a--b/snapshots/{COMMIT}"
    assert settings["socket"] == "/run/mlx-hosts/qwen.0/api.sock"


def test_a_host_with_cards_has_what_they_need() -> None:
    """The hold, the unit that makes the device nodes, the drop-in: with cards, and only then."""
    kinds: Callable[[Declaration], set[str]] = lambda one: {each.kind for each in one.manifest}  # noqa: E731
    assert {"hold", "driver", "gpu"} <= kinds(declared(bound=WITH_GPU))
    assert not {"hold", "driver", "gpu"} & kinds(declared())
    units = {one.name: one for one in declared(bound=WITH_GPU).serving.of(Unit)}
    assert "mlx-gpu-ready.service" in units
    drop_ins = units["mlx-model@qwen.0.service"].drop_ins or ()
    assert [path.rpartition("/")[2] for path in drop_ins] == ["10-limits.conf", "20-gpu.conf"]


def test_the_hosts_own_check_is_a_timer_and_a_service_that_nobody_starts() -> None:
    """Of the service it matters what systemd has loaded, not whether it happens to run."""
    units = {one.name: one for one in declared().checking.of(Unit)}
    assert units["mlx-drift.timer"].active == "active"
    service = units["mlx-drift.service"].attributes()
    assert service == {
        "enabled": "static",
        "fragment": "/etc/systemd/system/mlx-drift.service",
        "drop_ins": (),
        "stale": False,
    }


def test_a_model_served_twice_is_fetched_once() -> None:
    """Two instances of one commit share its files."""
    twin = replace(MODEL, instance="qwen.1")
    manifest = declare(HOST, BOUND, [MODEL, twin], SOURCES).manifest
    assert len([one for one in manifest if isinstance(one, Weights)]) == 1
    assert len([one for one in manifest if isinstance(one, Instance)]) == 2
    assert len([one for one in manifest if isinstance(one, Runtime)]) == 3


class Split:
    """A lock of one model that fits no GPU alone."""

    def traced(self, model: object, processor: str, *, mlx_lm: str | None = None) -> Traced:
        del model, processor, mlx_lm
        return traced(120 * 2**30)

    def entry(self, model: object) -> None:
        del model


def test_each_rank_is_a_unit_with_one_gpu_that_shares_a_network_with_the_others() -> None:
    """Over two GPUs: one guard for each, told the same group, and which rank it is."""
    bound = replace(WITH_GPU, gpus=(GPU, replace(GPU, uuid="GPU-2")))
    model = Placed(path="/srv/big", name="big", context=8192)
    declaration = planned(Host(name="h", models=(model,)), bound, Split(), SOURCES)

    units = {one.name: one for one in declaration.serving.of(Unit)}
    told = [
        json.loads(declaration.contents[f"/etc/mlx-hosts/instances/{name}.json"])
        for name in ("big.0", "big.0.1")
    ]
    assert [one["gpu_uuids"] for one in told] == [["GPU-1"], ["GPU-2"]]
    assert [one["group"].pop("rank") for one in told] == [0, 1]
    for one in told:
        assert one["group"] == {
            "backend": "nccl",
            "meeting": "127.0.0.1:7700",
            "ranks": ["127.0.0.1:7701", "127.0.0.1:7702"],
        }
    names = ("mlx-model@big.0.service", "mlx-rank@big.0.1.service")
    for name, other in zip(names, reversed(names), strict=True):
        folder = f"/etc/systemd/system/{name}.d"
        drop_ins = ("10-limits.conf", "20-gpu.conf", "30-group.conf")
        assert units[name].drop_ins == tuple(f"{folder}/{each}" for each in drop_ins)
        assert f"\nJoinsNamespaceOf={other}\n" in declaration.contents[f"{folder}/30-group.conf"]
    assert {one.pattern: one.names for one in declaration.serving.of(UnitSet)} == {
        "mlx-model@*": names[:1],
        "mlx-rank@*": names[1:],
    }


def test_of_a_group_over_hosts_each_host_has_its_own_ranks_and_the_others_addresses() -> None:
    """The second host: one rank of two, the meeting on the first, nothing of it restarted alone."""
    model = Placed(path="/srv/big", name="big", context=8192, hosts_spanned=2, fabric_port=9000)
    card = PlannedGpu(
        name=GPU.name, memory_bytes=GPU.memory_bytes, compute_capability=GPU.compute_capability
    )
    fleet = [
        Host(name=f"h{n}", gpus=(card,), models=(model,), fabric=f"10.0.0.{n}", flavour="cuda13")
        for n in (1, 2)
    ]
    declaration = planned(fleet[1], WITH_GPU, Split(), SOURCES, fleet)

    (unit,) = [one for one in declaration.serving.of(Unit) if "@" in one.name]
    assert (unit.name, unit.restarts) == ("mlx-rank@big.0.1.service", None)
    told = json.loads(declaration.contents["/etc/mlx-hosts/instances/big.0.1.json"])
    assert told["gpu_uuids"] == [GPU.uuid]
    assert told["group"] == {
        "rank": 1,
        "backend": "nccl",
        "meeting": "10.0.0.1:9000",
        "ranks": ["10.0.0.1:9001", "10.0.0.2:9002"],
    }
    drop_in = declaration.contents[f"/etc/systemd/system/{unit.name}.d/30-group.conf"]
    assert "\nIPAddressAllow=\nIPAddressAllow=10.0.0.1 10.0.0.2\n" in drop_in
    assert "JoinsNamespaceOf" not in drop_in
    assert [one.fabric for one in declaration.serving.of(Sockets)] == ["10.0.0.2"]
    assert (declaration.spanning, declaration.peers) == (("big.0",), ("h1",))


def test_what_is_served_and_may_not_be_meant_is_told() -> None:
    """To the host that serves it, without its name."""
    bound = replace(WITH_GPU, gpus=(GPU, replace(GPU, uuid="GPU-2")))
    model = Placed(path="/srv/big", name="big", context=2 * 131072)
    (words,) = planned(Host(name="h", models=(model,)), bound, Split(), SOURCES).warnings
    assert words.startswith("big: `context` 262144 is more than the 131072 tokens")


def test_a_span_with_a_card_that_nobody_knows_is_told_to_whoever_is_in_it() -> None:
    """Nothing is declared of it, and not without a word."""
    model = Placed(path="/srv/big", name="big", context=8192, hosts_spanned=2)
    fleet = [
        Host(name=f"h{n}", gpus=(name,), models=(model,), fabric=f"10.0.0.{n}", flavour="cuda13")
        for n, name in ((1, "NVIDIA of tomorrow"), (2, "NVIDIA H200"))
    ]
    declaration = planned(fleet[1], WITH_GPU, Split(), SOURCES, fleet)

    assert not [one for one in declaration.serving.of(Unit) if "@" in one.name]
    (told,) = declaration.refusals
    assert told.startswith("h1: a GPU of it is none that planner/gpus.py knows")


def test_a_model_that_is_whole_is_told_of_no_group() -> None:
    """Nor is its unit given anything of one."""
    declaration = declared()
    settings = json.loads(declaration.contents["/etc/mlx-hosts/instances/qwen.0.json"])
    assert "group" not in settings
    assert not any("30-group" in path for path in declaration.contents)


def test_each_directory_of_weights_has_a_record_of_its_own() -> None:
    """However alike their paths, and in a name that a file system takes."""
    long = "/srv/" + "\u6a21" * 80
    paths = ("/data/models-x", "/data/models/x", "/data-models/x", f"{long}/a", f"{long}/b")
    names = [directory(path, ()).record.rpartition("/")[2] for path in paths]
    assert len({*names}) == len(paths)
    assert names[0].startswith("path-data-models-x-")
    assert max(len(name.encode()) for name in names) < 240, "and what is written before its move"
