"""The long forms: fuzzing, restarts under load, prefills that look like hangs."""

from __future__ import annotations

import json
import os
import random
import threading
import time
from pathlib import Path

import pytest

from tests.guard.fuzz import fuzz
from tests.guard.instance import Instance
from tests.guard.streaming import InFlight

ENDLESS = {"256": -100}  # the end token is never sampled


def restarts_under_load(place: Path, tiny: Path, times: int) -> list[float]:
    """Seconds of each drain; raises where an accepted request was lost."""
    took = []
    for number in range(times):
        with Instance(
            place / str(number), tiny, concurrency=8, decode_concurrency=8, stop_timeout_s=120
        ) as instance:
            streams = [InFlight(instance, logit_bias=ENDLESS, max_tokens=3500) for _ in range(8)]
            began = time.monotonic()
            assert instance.stop(within_s=150) == 0
            took.append(time.monotonic() - began)
            for stream in streams:
                assert stream.ended.wait(5)
                assert stream.text.endswith("data: [DONE]\n\n"), stream.text[-300:]
    return took


def mixed_prefills(place: Path, tiny: Path, requests: int) -> dict[str, float]:
    """Long prompts that take several hang times, short ones between; none may be killed."""
    floor = 0.5
    config = {"hang_floor_s": floor, "prefill_step": 16, "compile_allowance_s": 30,
              "context_tokens": 8192, "waiting": 64}  # fmt: skip
    slow, wrong = [], []
    with Instance(place, tiny, **config) as instance:

        def ask(seed: int) -> None:
            chance = random.Random(seed)
            for number in range(requests // 4):
                length = 7600 if number % 2 else chance.randint(1, 200)
                prompt = chance.randbytes(length // 2).hex()
                began = time.monotonic()
                if instance.complete(prompt or "x", max_tokens=2).status_code != 200:
                    wrong.append(length)
                elif length == 7600:
                    slow.append(time.monotonic() - began)

        threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert instance.state()["starts"] == 1
        assert instance.state()["state"] == "ready"
    slow.sort()
    return {"requests": requests, "hang_floor_s": floor, "long": len(slow),
            "long_p50_s": slow[len(slow) // 2], "long_min_s": slow[0], "long_max_s": slow[-1],
            "beyond_three_floors": sum(took > 3 * floor for took in slow)}  # fmt: skip


def test_a_little_fuzzing(tmp_path: Path, seed: int) -> None:
    """Another 300 requests each time, by the printed seed."""
    told = fuzz(300, seed, tmp_path)
    assert told["wrong"] == [], json.dumps(told)


@pytest.mark.soak
def test_much_fuzzing(tmp_path: Path, seed: int) -> None:
    """50,000 requests, of which 5,000 and more generate."""
    told = fuzz(50_004, seed, tmp_path)
    print(json.dumps(told))
    assert told["wrong"] == []
    assert told["sequences_generated"] > 5000


def test_one_restart_under_eight_streams(tmp_path: Path, tiny: Path) -> None:
    """Each stream ends whole, and the guard ends well."""
    print(restarts_under_load(tmp_path, tiny, 1))


@pytest.mark.soak
def test_twenty_restarts_under_eight_streams(tmp_path: Path, tiny: Path) -> None:
    """No accepted request is lost; the streams were at least five seconds from their end."""
    took = restarts_under_load(tmp_path, tiny, 20)
    print([round(seconds, 1) for seconds in took])
    assert min(took) > 5


def test_some_long_prefills_are_no_hangs(tmp_path: Path, tiny: Path) -> None:
    """Long and short ones mixed; the engine is never restarted."""
    print(mixed_prefills(tmp_path, tiny, int(os.environ.get("GUARD_PREFILLS", "24"))))


@pytest.mark.soak
def test_a_thousand_long_prefills_are_no_hangs(tmp_path: Path, tiny: Path) -> None:
    """Each long one takes three times the hang time and more."""
    told = mixed_prefills(tmp_path, tiny, 2000)
    print(told)
    assert told["beyond_three_floors"] >= 1000
