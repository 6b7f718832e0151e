"""Models over several hosts: over as few as it takes, on each what the others expect of it."""

import pytest

from planner.declared import Gpu, Host, InventoryError, Model
from planner.fleet import read_hosts, related
from planner.placement import place
from planner.report import report
from planner.spaces import Detected
from planner.why import why
from tests.planner.test_place import CARD, GIB, Known, model, traced

SMALL = Gpu(name="NVIDIA L4", memory_bytes=23034 * 2**20, compute_capability="8.9")


def host(number, *models, gpus=(CARD,), **more):
    more = {"fabric": f"10.0.0.{number}", "flavour": "cuda13", **more}
    return Host(name=f"h{number}", gpus=gpus, models=models, **more)


def plan(hosts, **known):
    return place(hosts, Known(**known), mlx_lm="0.32.2")


def where(plan):
    return {
        (one.host, one.instance): [(member.host, member.gpu) for member in one.members]
        for one in plan.placements
    }


def test_a_model_that_fits_each_host_is_served_by_each():
    """It may span two, and has no need to."""
    wide = model("small", hosts_spanned=2)

    placed = plan([host(1, wide), host(2, wide)], small=traced(16 * GIB))

    assert where(placed) == {("h1", "small.0"): [("h1", 0)], ("h2", "small.0"): [("h2", 0)]}


def test_a_model_that_fits_no_host_alone_goes_over_two():
    """Rank 0 on the first of them, and half of the weights on each."""
    wide = model("big", hosts_spanned=2)

    placed = plan([host(1, wide), host(2, wide)], big=traced(120 * GIB))

    assert where(placed) == {("h1", "big.0"): [("h1", 0), ("h2", 0)]}
    (one,) = placed.placements
    assert one.need.weights == 60 * GIB
    assert one.where == {"h1": "GPU 0", "h2": "GPU 0"}
    assert one in placed.on("h2")


def test_a_model_that_two_hosts_have_no_room_for_alone_goes_over_both():
    """Beside another that is declared after it, or that each host has for itself."""
    small, big = model("small", hosts_spanned=2), model("big", hosts_spanned=2, fabric_port=7800)
    known = {"small": traced(24 * GIB), "big": traced(120 * GIB), "own": traced(60 * GIB)}

    spanning = plan([host(1, small, big), host(2, small, big)], **known)
    beside = plan([host(n, model("own"), small) for n in (1, 2)], **known)

    assert where(spanning) == {
        ("h1", name): [("h1", 0), ("h2", 0)] for name in ("small.0", "big.0")
    }
    assert where(beside) == {
        ("h1", "small.0"): [("h1", 0), ("h2", 0)],
        ("h1", "own.0"): [("h1", 0)],
        ("h2", "own.0"): [("h2", 0)],
    }


def test_what_room_is_left_goes_to_a_span_too():
    """As many kept sequences as a host alone would be told; fewer where others have the room."""
    wide, own = model("big", hosts_spanned=2), model("own")

    def kept(*models, **known):
        placed = plan([host(1, wide, *models), host(2, wide)], big=traced(120 * GIB), **known)
        assert placed.fits
        for space in placed.spaces:
            needs = [it.need.total for it in placed.on(space.host)]
            assert sum(needs) <= space.usable
        (one,) = (it for it in placed.placements if it.model == "big")
        return one.settings.prompt_cache_entries

    assert kept() == 8 > kept(own, own=traced(12 * GIB)) > 2


def test_what_has_no_room_beside_a_span_is_given_some_of_what_that_would_keep():
    """Another span, or what its hosts serve alone; what is left over goes to all of them."""
    wide = model("big", hosts_spanned=2)
    other = model("next", hosts_spanned=2, ranks=2, fabric_port=7800)
    known = {"big": traced(120 * GIB), "next": traced(36 * GIB), "own": traced(18 * GIB)}

    for beside in (other, model("own")):
        placed = plan([host(n, wide, beside) for n in (1, 2)], **known)
        assert placed.fits
        for space in placed.spaces:
            assert sum(it.need.total for it in placed.on(space.host)) <= space.usable
        assert max(it.settings.prompt_cache_entries for it in placed.placements) == 2


def test_what_takes_others_room_goes_over_both_though_a_host_could_serve_it_alone():
    """Whichever of them is declared first."""
    wide, own = model("small", hosts_spanned=2), model("own")
    known = {"small": traced(24 * GIB), "own": traced(62 * GIB)}

    for models in ((own, wide), (wide, own)):
        placed = plan([host(n, *models) for n in (1, 2)], **known)
        assert placed.fits
        assert len(placed.on("h1")[0].where) == 2


def test_it_is_served_once_by_every_two_of_four():
    """In the order of the inventory."""
    wide = model("big", hosts_spanned=2)

    placed = plan([host(n, wide) for n in (1, 2, 3, 4)], big=traced(120 * GIB))

    assert where(placed) == {
        ("h1", "big.0"): [("h1", 0), ("h2", 0)],
        ("h3", "big.0"): [("h3", 0), ("h4", 0)],
    }


def test_all_gpus_of_the_hosts_are_used_where_one_of_each_is_not_enough():
    """Four ranks on two hosts with two cards each: each host's are beside each other."""
    four = traced(240 * GIB)
    four.ranks[4] = traced(240 * GIB // 2).ranks[2]
    wide = model("huge", hosts_spanned=2)

    placed = plan([host(n, wide, gpus=(CARD, CARD)) for n in (1, 2)], huge=four)

    assert where(placed) == {("h1", "huge.0"): [("h1", 0), ("h1", 1), ("h2", 0), ("h2", 1)]}


def test_ranks_by_hand_are_parted_over_the_hosts_asked_for():
    """Though it would fit one."""
    wide = model("small", hosts_spanned=2, ranks=2)

    placed = plan([host(1, wide), host(2, wide)], small=traced(GIB))

    assert where(placed) == {("h1", "small.0"): [("h1", 0), ("h2", 0)]}


def test_cards_of_the_same_kind_are_chosen_on_all_hosts():
    """The first host has its larger card first, the other only the smaller kind twice."""
    wide = model("small", hosts_spanned=2, ranks=2)

    hosts = [host(1, wide, gpus=(CARD, SMALL)), host(2, wide, gpus=(SMALL, SMALL))]
    placed = plan(hosts, small=traced(GIB))

    assert where(placed) == {("h1", "small.0"): [("h1", 1), ("h2", 0)]}


def test_what_a_host_serves_alone_gets_what_the_span_leaves():
    """The span is placed first; of its card the host's own model gets the rest, or is refused."""
    wide = model("big", hosts_spanned=2)
    hosts = [host(1, wide, model("own")), host(2, wide, model("large"))]

    placed = plan(hosts, big=traced(120 * GIB), own=traced(8 * GIB), large=traced(60 * GIB))

    assert set(where(placed)) == {("h1", "big.0"), ("h1", "own.0")}
    (refused,) = placed.refusals
    assert (refused.host, refused.model) == ("h2", "large")
    for space in placed.spaces:
        assert sum(p.need.total for p in placed.on(space.host)) <= space.usable


def test_each_span_is_judged_by_itself():
    """Where the later two have smaller cards, the first two are served all the same."""
    wide = model("big", hosts_spanned=2)
    hosts = [host(n, wide, gpus=(CARD if n < 3 else SMALL,)) for n in (1, 2, 3, 4)]

    placed = plan(hosts, big=traced(120 * GIB))

    assert where(placed) == {("h1", "big.0"): [("h1", 0), ("h2", 0)]}
    assert [one.host for one in placed.refusals] == ["h3", "h4"]


def test_what_other_hosts_have_no_room_for_changes_nothing_here():
    """Only those make room that have something to do with it."""
    wide, other = (model(name, hosts_spanned=2) for name in ("big", "other"))
    mine = [host(n, wide, model("own")) for n in (1, 2)]
    tight = [host(n, other, model("more")) for n in (3, 4)]
    known = {name: traced(120 * GIB) for name in ("big", "other")}
    known |= {"own": traced(12 * GIB), "more": traced(18 * GIB)}

    placed = plan([*mine, *tight], **known)

    assert placed.fits
    for hosts in (mine, tight):
        for each in hosts:
            assert placed.on(each.name) == plan(hosts, **known).on(each.name)


def test_four_hosts_that_need_two_for_a_model_serve_it_twice():
    """It may span four, and has no need to."""
    wide = model("big", hosts_spanned=4)

    placed = plan([host(n, wide) for n in (1, 2, 3, 4)], big=traced(120 * GIB))

    assert set(where(placed)) == {("h1", "big.0"), ("h3", "big.0")}


def test_what_another_span_left_decides_whether_a_host_can_serve_alone():
    """Alone it would not fit beside the first span's ranks; over both hosts it does."""
    one, other = model("one", hosts_spanned=2), model("two", hosts_spanned=2, fabric_port=7800)

    placed = plan(
        [host(n, one, other) for n in (1, 2)], one=traced(100 * GIB), two=traced(50 * GIB)
    )

    assert placed.fits
    assert set(where(placed)) == {("h1", "one.0"), ("h1", "two.0")}


def test_what_fits_no_way_is_refused_on_each_of_its_hosts():
    """With the numbers of the widest split."""
    wide = model("vast", hosts_spanned=2)

    refused = plan([host(1, wide), host(2, wide)], vast=traced(400 * GIB)).refusals

    assert [one.host for one in refused] == ["h1", "h2"]
    assert all(one.needed > one.available > 0 for one in refused)
    assert "on each of 2 GPUs" in refused[0].reason


def test_an_architecture_that_cannot_be_split_is_said_to_be_one():
    """Two hosts are no help to it."""
    wide = model("big", hosts_spanned=2)

    refused = plan([host(1, wide), host(2, wide)], big=traced(120 * GIB, shards=False)).refusals

    assert [one.host for one in refused] == ["h1", "h2"]


def test_cpu_hosts_have_a_rank_each():
    """Against each one's memory."""
    wide = model("some", hosts_spanned=2)
    hosts = [
        Host(
            name=f"c{n}", flavour="cpu", memory_bytes=24 * GIB, models=(wide,), fabric=f"10.0.0.{n}"
        )
        for n in (1, 2)
    ]

    placed = plan(hosts, some=traced(24 * GIB))

    assert where(placed) == {("c1", "some.0"): [("c1", None), ("c2", None)]}


def test_what_a_host_of_a_span_was_seen_to_have_changes_nothing():
    """Nobody else could know it: neither for a plan, nor for what would make others fit."""
    named = "NVIDIA L4"
    hosts = [
        host(n, model("wide", hosts_spanned=2, ranks=2), model("own"), gpus=(named,))
        for n in (1, 2)
    ]
    known = Known(wide=traced(8 * GIB), own=traced(15 * GIB + 300 * 2**20))
    more = Gpu(name=named, memory_bytes=24 * GIB, compute_capability="8.9")
    seen = {"h1": Detected(gpus=(more,))}

    plans = [place(hosts, known, mlx_lm="0.32.2", detected=found) for found in (None, seen)]

    assert plans[0].refusals
    assert plans[0] == plans[1]


def test_hosts_that_nothing_is_known_of_are_told_in_their_order():
    """Whatever they are planned with."""
    wide = model("wide", hosts_spanned=2)
    hosts = [
        host(1, wide),
        host(2, model("own"), fabric=None, gpus=None),
        host(3, wide, gpus=("NVIDIA FOO",)),
    ]

    undecided = plan(hosts, wide=traced(GIB), own=traced(GIB)).undecided

    assert [*undecided] == ["h2", "h3"]


def test_every_host_of_a_span_plans_it_alike():
    """From all models of those that are bound to each other: never from anybody else's.

    To the byte: ranks that were told different settings refuse each other.
    """
    wide, other = model("big", hosts_spanned=2), model("next", hosts_spanned=2, fabric_port=7800)
    hosts = [
        host(1, wide, model("own")), host(2, other, wide), host(3, other), host(4, model("own"))
    ]  # fmt: skip
    known = {"big": traced(120 * GIB), "next": traced(8 * GIB), "own": traced(12 * GIB)}
    whole = plan(hosts, **known)

    for each in hosts:
        kin = related(each, hosts)
        assert [one.name for one in kin] == (["h4"] if each.name == "h4" else ["h1", "h2", "h3"])
        assert plan(kin, **known).on(each.name) == whole.on(each.name)


def test_the_report_names_every_host_of_an_instance():
    """In the table, and where every rule is told."""
    wide = model("big", hosts_spanned=2)
    hosts, known = [host(1, wide), host(2, wide)], Known(big=traced(120 * GIB))
    placed = place(hosts, known, mlx_lm="0.32.2")

    said = why("big", hosts, known, placed, mlx_lm="0.32.2")

    assert "may go over 2 hosts: h1, h2" in said
    assert said.count("placed: big.0 on h1, GPU 0; h2, GPU 0") == 2
    assert report(placed) is not None


def declare(**differing):
    """Two hosts that declare one model together, but for what differs by host."""
    one = {
        "gpus": [CARD], "fabric": "10.0.0.1", "flavour": "cuda13",
        "models": [{"path": "/m", "name": "big", "context": 8192, "hosts_spanned": 2}],
    }  # fmt: skip
    data = {"h1": one, "h2": {**one, "fabric": "10.0.0.2"}}
    for name, more in differing.items():
        data[name] = {**data.get(name, one), **more}
    return read_hosts(data, foreign=())


BIG = {"path": "/m", "name": "big", "context": 8192, "hosts_spanned": 2}
MISTAKES = {
    "h2: models.big: is not declared as `h1` declares it": {
        "h2": {"models": [{**BIG, "context": 4096}]}
    },
    "h2: measured: not as of `h1`, which serves `big` too": {
        "h2": {"measured": {"process_bytes": 5}}
    },
    "h2: flavour: not as of `h1`": {"h2": {"flavour": "cuda12"}},
    "h2: site.python: not as of `h1`": {"h2": {"site": {"python": "/opt/p/bin/python3"}}},
    "h2: flavour: missing": {"h2": {"flavour": None}},
    "h2: fabric: value error, expected the IPv4 address": {"h2": {"fabric": "10.0.0.256"}},
    "h1: fabric: value error, expected the IPv4 address": {"h1": {"fabric": "127.0.0.1"}},
    "h1: models.0: gpus: pinned to none": {"h1": {"models": [{**BIG, "gpus": []}]}},
    "models.big: hosts_spanned: 2, but 3 declare it (h1, h2, h3)": {"h3": {"fabric": "10.0.0.3"}},
    "models.big: two of its hosts have the same `fabric` address": {"h2": {"fabric": "10.0.0.1"}},
    "h2: fabric: missing": {"h2": {"fabric": None}},
    "h2: gpus: missing": {"h2": {"gpus": None}},
    "h2: fabric_port: 7700 of `big` and 7708 of `next`": {
        "h2": {"models": [BIG, {**BIG, "name": "next", "fabric_port": 7708}]}
    },
    "h1: models.0: replicas: an instance over several hosts is served once": {
        "h1": {"models": [{**BIG, "replicas": 2}]}
    },
    "h1: models.0: ranks: 1 cannot be parted evenly over `hosts_spanned` 2": {
        "h1": {"models": [{**BIG, "ranks": 1}]}
    },
    "h1: models.0: ranks: 2, but `gpus` pins it to 2 of each of 2 hosts": {
        "h1": {"gpus": [CARD, CARD], "models": [{**BIG, "ranks": 2, "gpus": [0, 1]}]}
    },
}


@pytest.mark.parametrize("words", MISTAKES)
def test_hosts_that_cannot_serve_together_are_told_so(words):
    """Before any is connected to."""
    assert len(declare()) == 2
    with pytest.raises(InventoryError) as told:
        declare(**MISTAKES[words])
    assert [line for line in told.value.mistakes if line.startswith(words)], told.value.mistakes


def test_a_span_of_hosts_must_be_of_a_size_that_models_are_split_into():
    """Three ranks are none that a trace has."""
    with pytest.raises(ValueError, match="1, 2, 4 or 8"):
        Model(path="/m", name="m", context=8192, hosts_spanned=3)
