"""The long forms: fuzzing, restarts under load, prefills that look like hangs."""

from __future__ import annotations

import json
import random
import threading
import time
from pathlib import Path

import pytest

from guard.vitals import SAFETY
from tests.guard.fake_engine import SLOWLY, make_runtime
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


class Prefills:
    """Long and short prompts in turn from many clients, until enough of the long ones were slow.

    A long one is made as long as it takes to last more than three times the time after which a
    silent engine counts as hung.  That time is short, but not so short that a busy machine may
    leave the engine without a processor for it.
    """

    FLOOR_S, STEP, LONGEST = 2.0, 16, 7600

    def __init__(self, place: Path, tiny: Path, slow: int, *, clients: int, fake: bool) -> None:
        self.slow, self.clients, self.length = slow, clients, 1000
        self.took: list[float] = []
        self.short = 0
        self.wrong: list[str] = []
        self._lock = threading.Lock()
        more = {"runtime": str(make_runtime(place / "runtime"))} if fake else {}
        self.instance = Instance(
            place, tiny, hang_floor_s=self.FLOOR_S, prefill_step=self.STEP, compile_allowance_s=30,
            context_tokens=8192, concurrency=clients, decode_concurrency=clients, **more,
        )  # fmt: skip

    @property
    def hang_s(self) -> float:
        """What the guard allows while these clients are being served."""
        (pace,) = [
            float(line.split()[1])
            for line in self.instance.client.get("/metrics").text.splitlines()
            if line.startswith("mlx_guard_prefill_tokens_per_second ")
        ]
        together = self.instance.config["prompt_concurrency"]
        return self.FLOOR_S + SAFETY * together * self.STEP / pace

    def run(self) -> dict[str, float]:
        with self.instance:
            threads = [
                threading.Thread(target=self._ask, args=(n,), daemon=True)
                for n in range(self.clients)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert self.wrong == [], self.instance.log()[-2000:]
            assert self.instance.state()["starts"] == 1
            assert self.instance.state()["state"] == "ready"
            hang_s = self.hang_s
        self.took.sort()
        return {"slow": len(self.took), "short": self.short, "hang_s": round(hang_s, 2),
                "prompt_tokens": self.length, "least_s": round(self.took[0], 1),
                "median_s": round(self.took[len(self.took) // 2], 1),
                "most_s": round(self.took[-1], 1)}  # fmt: skip

    def _ask(self, seed: int) -> None:
        chance = random.Random(seed)
        while len(self.took) < self.slow and not self.wrong:
            length = self.length
            took = self._one(SLOWLY + chance.randbytes(length // 2).hex())
            with self._lock:
                if took > 3 * (hang_s := self.hang_s):
                    self.took.append(took)
                    self.length = length if took < 6 * hang_s else int(length * 0.9)
                else:
                    self.length = min(self.LONGEST, int(length * 1.2))
            self._one(chance.randbytes(chance.randint(1, 100)).hex())
            self.short += 1

    def _one(self, prompt: str) -> float:
        began = time.monotonic()
        answer = self.instance.complete(prompt, max_tokens=2)
        if answer.status_code != 200:
            self.wrong.append(answer.text)
        return time.monotonic() - began


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
    print(Prefills(tmp_path, tiny, 4, clients=4, fake=False).run())


@pytest.mark.soak
@pytest.mark.parametrize("fake", [True, False])
def test_a_thousand_long_prefills_are_no_hangs(tmp_path: Path, tiny: Path, fake: bool) -> None:  # noqa: FBT001
    """Each long one takes three times the hang time and more.

    The fake engine needs no processor for a prefill, so that its times are known on any machine.
    """
    told = Prefills(tmp_path, tiny, 1000, clients=64 if fake else 16, fake=fake).run()
    print(told)
    assert told["slow"] >= 1000
