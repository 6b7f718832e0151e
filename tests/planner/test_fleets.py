"""Made-up fleets, of hosts that serve some models together: what holds of every plan."""

import random

from planner.declared import Gpu, Host, Model
from planner.fleet import families, related
from planner.placement import place
from tests.planner.test_place import CARD, GIB, Known, traced

FLEETS = 8
SMALL = Gpu(name="NVIDIA L4", memory_bytes=23034 * 2**20, compute_capability="8.9")
WEIGHTS = [gib * GIB for gib in (4, 8, 12, 18, 24, 36, 60, 70, 90, 120, 150)]


def fleet(chosen):
    """Two to four hosts, models of theirs, and up to three over some of them."""
    known = {}

    def model(name, **more):
        known[name] = traced(chosen.choice(WEIGHTS))
        context, concurrency = chosen.choice([2048, 8192, 32768]), chosen.choice([1, 4, 8])
        return Model(path=f"/{name}", name=name, context=context, concurrency=concurrency, **more)

    count = chosen.randint(2, 4)
    wide = {}
    for at in range(chosen.randint(1, 3)):
        size = chosen.choice([2, 4]) if count == 4 else 2
        on = chosen.sample(range(count), count // size * size)
        ranks = chosen.choice([None, size])
        wide[model(f"w{at}", hosts_spanned=size, fabric_port=7700 + 20 * at, ranks=ranks)] = on
    cards = [chosen.choice([CARD, SMALL]) for _ in range(chosen.randint(1, 2))]
    hosts = []
    for at in range(count):
        models = [each for each, on in wide.items() if at in on]
        models += [model(f"o{at}{number}") for number in range(chosen.randint(0, 2))]
        chosen.shuffle(models)
        hosts.append(
            Host(
                name=f"h{at}",
                fabric=f"10.0.0.{at + 1}",
                flavour="cuda13",
                gpus=(*cards, *chosen.choice([(), (), (CARD,)])),
                models=tuple(models),
            )
        )
    return hosts, Known(**known)


def test_every_model_is_placed_or_refused_within_what_there_is_and_on_all_hosts_alike(seed):
    """Whoever looks at one host alone finds what all of them were told, to the byte."""
    chosen = random.Random(seed)
    spanned = refused = tried = 0
    while tried < FLEETS or not (spanned and refused):
        tried += 1
        assert tried < 100, "some are spanned, and some refused"
        hosts, known = fleet(chosen)
        plan = place(hosts, known, mlx_lm="0.32.2")
        spanned += any(len(one.where) > 1 for one in plan.placements)
        refused += bool(plan.refusals)
        for space in plan.spaces:
            here = [
                one.need.total
                for one in plan.placements
                for member in one.members
                if (member.host, member.gpu) == (space.host, space.gpu)
            ]
            assert sum(here) <= space.usable
        for host in hosts:
            placed = [one.model for one in plan.on(host.name)]
            missing = [one.model for one in plan.refusals if one.host == host.name]
            assert sorted(placed + missing) == sorted(one.slug for one in host.models)
            alone = place(related(host, hosts), known, mlx_lm="0.32.2")
            assert alone.on(host.name) == plan.on(host.name)
            its = [[one for one in of.refusals if one.host == host.name] for of in (alone, plan)]
            assert its[0] == its[1]
        assert sum(len(kin) for kin in families(hosts)) == len(hosts)
