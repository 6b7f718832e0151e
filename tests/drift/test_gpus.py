"""Cards that are not as they were: found on a host with a simulated driver, one by one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from facts.bare_host import BareHost
from facts.probe import parse, question
from lab import Host, Lab
from lab.driver import ACTIVATE, Profile, install
from manifest.declaration import declare
from manifest.findings import compare
from manifest.manifest import Manifest
from manifest.planned import sources
from manifest.resources import Resource
from manifest.stamp import Run, Stamp
from planner.declared import Host as Declared
from planner.verdict import bind
from templates import render

pytestmark = [pytest.mark.lab, pytest.mark.gcc]

ROOT = Path(__file__).parents[2]
PROFILE = Profile.load("two_rtx_pro_6000")
FIRST, SECOND = (f"gpu:{gpu['uuid']}" for gpu in PROFILE.gpus)


def first(**changed: object) -> Callable[[Profile], Profile]:
    """Another first card."""
    return lambda profile: replace(
        profile, gpus=({**profile.gpus[0], **changed}, *profile.gpus[1:])
    )


CHANGES: dict[str, tuple[Callable[[Profile], Profile], set[tuple[str, str, str | None]]]] = {
    "nothing": (lambda profile: profile, set()),
    "ECC switched on": (first(ecc="Enabled"), {("changed by hand", FIRST, "ecc")}),
    "less memory": (first(memory_mib=91000), {("changed by hand", FIRST, "memory_mib")}),
    "less power": (first(power_limit=450), {("changed by hand", FIRST, "power_limit_watts")}),
    "exclusive": (
        first(compute_mode="Exclusive_Process"),
        {("changed by hand", FIRST, "compute_mode")},
    ),
    "split by MIG": (first(mig="Enabled"), {("changed by hand", FIRST, "mig")}),
    "in another slot": (
        first(pci="00000000:a1:00.0"),
        {("changed by hand", FIRST, "pci")},
    ),
    "a card gone": (
        lambda profile: replace(profile, gpus=profile.gpus[:1]),
        {("missing", SECOND, None), ("missing", "gpu-set:nvidia", "uuids")},
    ),
    "a card exchanged": (
        first(uuid="GPU-0c4a9ed0-0000-4000-8000-000000000000"),
        {
            ("missing", FIRST, None),
            ("missing", "gpu-set:nvidia", "uuids"),
            ("unmanaged", "gpu-set:nvidia", "uuids"),
        },
    ),
    "another driver, and no reboot yet": (
        lambda profile: replace(profile, driver="580.105.08", module_version=profile.driver),
        {("out of date", "driver:nvidia", "library")},
    ),
}


@pytest.fixture(scope="module")
def host(lab: Lab) -> Iterator[Host]:
    made = lab.boot("gpu-drift")
    yield made
    made.destroy()


@pytest.fixture(scope="module")
def hardware(host: Host) -> tuple[Resource, ...]:
    """What a deploy declares of the cards that its preflight found."""
    become(host, PROFILE)
    command = BareHost().command(paths=["/opt"], seconds=10)
    output = host.root_run(command.get_raw_value()).stdout
    declared = Declared(name="gpu-1", gpus=tuple(gpu["name"] for gpu in PROFILE.gpus))
    bound = bind(BareHost().process(output.splitlines()), declared)
    return declare(declared, bound, [], sources(ROOT, render)).hardware


def become(host: Host, profile: Profile) -> None:
    install(host.root, copy.deepcopy(profile))
    host.root_run(ACTIVATE)


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_of_the_cards_is_found(
    host: Host, hardware: tuple[Resource, ...], name: str
) -> None:
    """By class, card and attribute; nothing else is."""
    change, expected = CHANGES[name]
    become(host, change(PROFILE))
    answer: Any = parse(host.root_run("python3 -I -", input=question(hardware)).stdout)
    assert not answer.problems
    run = Run(operator="somebody", time="2026-11-23T00:00:00Z", commit="0" * 40)
    found = compare(hardware, Stamp(run=run, applied=Manifest(hardware)), answer.manifest)
    watched = {one for one in found if one.kind in {"gpu", "gpu-set", "driver"}}
    assert {(one.cause, one.address, one.attribute) for one in watched} == expected
