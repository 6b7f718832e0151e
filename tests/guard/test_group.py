"""Two ranks of one model over MLX's ring, each behind its guard: they rise and fall together."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from guard.weights import Incomplete, fingerprint
from tests.guard.instance import Instance
from tests.guard.models import make_tiny_llama


def free_ports(count: int) -> list[int]:
    taken = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in taken]
    for one in taken:
        one.close()
    return ports


class Pair:
    """Both ranks, restarted as systemd's ``Restart=always`` would."""

    def __init__(self, place: Path, model: Path, *, other: Path | None = None) -> None:
        ports = free_ports(3)
        group = {
            "backend": "ring",
            "ranks": [f"127.0.0.1:{ports[0]}", f"127.0.0.2:{ports[1]}"],
            "meeting": f"127.0.0.1:{ports[2]}",
            "link_timeout_s": 3,
            "start_deadline_s": 150,
        }
        self.ranks = [
            Instance(
                place / str(rank),
                (other or model) if rank else model,
                instance=f"tiny.0.{rank}",
                group=group | {"rank": rank},
                start_timeout_s=30,
            )
            for rank in range(2)
        ]
        self._stopping = threading.Event()
        self._keepers: list[threading.Thread] = []

    def keep(self, rank: int) -> None:
        """Start one rank, and again whenever it ends."""

        def work() -> None:
            while not self._stopping.is_set():
                self.ranks[rank].start()
                process = self.ranks[rank].process
                assert process is not None
                process.wait()
                time.sleep(0.2)

        self.ranks[rank].kept = True
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        self._keepers.append(thread)

    def both_ready(self) -> bool:
        return all(rank.state()["state"] == "ready" for rank in self.ranks)

    def until_ready(self, within_s: float = 180) -> float:
        began = time.monotonic()
        while not self.both_ready():
            assert time.monotonic() - began < within_s, [
                (rank.state(), rank.log()[-1500:]) for rank in self.ranks
            ]
            for rank in self.ranks:
                rank.notified()
            time.sleep(0.05)
        return time.monotonic() - began

    def pids(self) -> list[int | None]:
        return [rank.state().get("engine_pid") for rank in self.ranks]

    def close(self) -> None:
        self._stopping.set()
        for rank in self.ranks:
            if rank.process is not None:
                rank.process.kill()
        for thread in self._keepers:
            thread.join(5)
        for rank in self.ranks:
            rank.__exit__()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Iterator[Pair]:
    made = Pair(tmp_path_factory.mktemp("pair"), tiny)
    made.keep(1)  # the higher rank first: it waits for rank 0
    time.sleep(1)
    made.keep(0)
    try:
        made.until_ready()
        yield made
    finally:
        made.close()


def test_the_group_answers_as_one_process_does(pair: Pair, tmp_path: Path, tiny: Path) -> None:
    """Tensor parallel over two processes: the same greedy text; rank 1 serves nobody."""
    together = pair.ranks[0].chat("a question", max_tokens=12).json()["choices"]
    with Instance(tmp_path, tiny) as alone:
        assert alone.chat("a question", max_tokens=12).json()["choices"] == together
    assert pair.ranks[1].chat().status_code == 503
    assert pair.ranks[1].client.get("/ready").json()["state"] == "ready"


def test_a_client_that_leaves_does_not_stop_the_group(pair: Pair) -> None:
    """A seeded stream whose client leaves deadlocks a bare group for ever."""
    body = {"model": "tiny", "prompt": "x", "max_tokens": 2000, "stream": True, "seed": 3}
    with pair.ranks[0].client.stream("POST", "/v1/completions", json=body) as answer:
        next(answer.iter_bytes())
    assert pair.ranks[0].chat().status_code == 200


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("whom", ["engine", "guard"])
def test_losing_one_rank_brings_both_back(
    pair: Pair, rank: int, number: signal.Signals, whom: str
) -> None:
    """Killed or stopped, engine or guard: both engines are replaced, and the group answers."""
    pair.until_ready()
    before = pair.pids()
    victim = pair.ranks[rank]
    assert victim.process is not None
    os.kill(victim.engine_pid if whom == "engine" else victim.process.pid, number)
    began = time.monotonic()
    if whom == "guard" and number == signal.SIGSTOP:
        time.sleep(5)  # systemd's watchdog, which does not run here, would end it
        victim.process.kill()
    while set(pair.pids()) & set(before) or not pair.both_ready():
        assert time.monotonic() - began < 150, [rank.state() for rank in pair.ranks]
        for one in pair.ranks:
            one.notified()
        time.sleep(0.05)
    print(f"{whom} of rank {rank}, {number.name}: both back in {time.monotonic() - began:.1f} s")
    assert pair.ranks[0].chat().status_code == 200


def test_other_weights_do_not_join(tmp_path: Path, tiny: Path) -> None:
    """A rank with other weights is refused by rank 0, with the reason on both sides."""
    other = make_tiny_llama(tmp_path / "other", hidden=128)
    made = Pair(tmp_path, tiny, other=other)
    try:
        for rank in (0, 1):
            made.keep(rank)
        for rank in made.ranks:
            rank.until(lambda rank=rank: "different weights" in rank.state()["reason"])  # type: ignore[misc]
    finally:
        made.close()


def test_a_rank_alone_ends_at_its_deadline(tmp_path: Path, tiny: Path) -> None:
    """It does not wait for ever, and says for whom it waited."""
    made = Pair(tmp_path, tiny)
    alone = made.ranks[0]
    alone.config["start_timeout_s"] = 2
    alone.start()
    assert alone.process is not None
    assert alone.process.wait(10) == 1
    assert "did not come together" in alone.state()["reason"]
    made.close()


def test_incomplete_weights_are_found_before_the_start(tmp_path: Path) -> None:
    """mlx-lm loads them in tensor mode without an error, and generates garbage."""
    model = make_tiny_llama(tmp_path / "model")
    assert fingerprint(model) == fingerprint(model)
    shard = model / "model.safetensors"
    data = shard.read_bytes()
    shard.write_bytes(data[:-1])
    with pytest.raises(Incomplete, match="its header says"):
        fingerprint(model)
    shard.write_bytes(data)
    (model / "model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "model-00002-of-00002.safetensors"}}'
    )
    with pytest.raises(Incomplete, match="missing: model-00002"):
        fingerprint(model)
