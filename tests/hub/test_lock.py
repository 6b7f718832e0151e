"""What is known of a model is fetched once, refused in one sentence, and never half written."""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest

from hub import client, lock, tracing
from lab.hub import Fault, Hub
from planner.declared import Model
from tests.planner import llama

ROOT = Path(__file__).parents[2]
NO_COMMIT = "0" * 40


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A hub on loopback."""
    with Hub(tmp_path_factory.mktemp("hub")) as running:
        yield running


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A small Llama as a repository would have it."""
    directory = llama.write(tmp_path_factory.mktemp("files") / "llama")
    (directory / "tokenizer.json").write_text("{}")
    (directory / "README.md").write_text("not wanted")
    return directory


@pytest.fixture(scope="module")
def commit(hub, files):
    return hub.add_repo("org/llama", files)


def model(repo, revision):
    return Model(repo=repo, revision=revision, name=repo.split("/")[1], context=4096)


def ensure(hub, path, *models, token=None):
    return lock.ensure([(one, "gpu") for one in models], path, endpoint=hub.endpoint, token=token)


def changed(hub, files, tmp_path, name, **contents):
    """The repository ``name``: the small Llama with some files other than they were."""
    directory = tmp_path / name
    directory.mkdir()
    for file in files.iterdir():
        (directory / file.name).write_bytes(file.read_bytes())
    for file, content in contents.items():
        path = directory / file.replace("__", ".")
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content)
    return model(f"org/{name}", hub.add_repo(f"org/{name}", directory))


def test_a_model_is_locked_with_files_hashes_and_trace(hub, commit, tmp_path):
    """Weights by LFS hash, the rest by git's; what mlx-lm would not download is left out."""
    path = tmp_path / "models.lock"

    found = ensure(hub, path, model("org/llama", commit))

    entry = found.models[f"org/llama@{commit}"]
    assert ["config.json", "model.safetensors", "tokenizer.json"] == [f.path for f in entry.files]
    assert all(file.sha256 or file.oid for file in entry.files)
    traced = found.traced(model("org/llama", commit), "gpu")
    assert entry.checkpoint.bytes_by_dtype == {"BF16": traced.rank(1).weights}
    assert lock.read(path) == found
    assert [path] == list(tmp_path.iterdir())


def test_a_complete_lock_needs_neither_mlx_nor_the_network(hub, commit, tmp_path):
    """Read and answered in a process that has neither, and cannot reach the hub."""
    path = tmp_path / "models.lock"
    ensure(hub, path, model("org/llama", commit))
    program = f"""
import sys
from hub.lock import ensure
from planner.declared import Model
model = Model(repo="org/llama", revision="{commit}", name="llama", context=4096)
assert ensure([(model, "gpu")], "{path}", endpoint="http://127.0.0.1:9").traced(model, "gpu")
heavy = {{"mlx", "mlx_lm", "transformers", "huggingface_hub", "httpx2"}} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT, timeout=60)


def test_the_weights_themselves_are_not_fetched(hub, tmp_path):
    """One range request of the header, however large the file."""
    directory = llama.write(tmp_path / "big", layers=8, width=1024, inner=4096)
    revision = hub.add_repo("org/big", directory)
    hub.forget_asked()

    ensure(hub, tmp_path / "models.lock", model("org/big", revision))

    whole = (directory / "model.safetensors").stat().st_size
    assert whole > 100 * client.FIRST
    asked = [it for it in hub.asked() if it["path"].endswith("model.safetensors")]
    assert {"storage", "hub"} == {it["server"] for it in asked}
    assert sum(it["bytes"] for it in asked) <= client.FIRST


BAD = {
    "config_not_json": ({"config__json": b"{"}, "`config.json` is not JSON"),
    "config_a_list": ({"config__json": b"[]"}, "no `model_type`"),
    "config_without_type": ({"config__json": b'{"a": 1}'}, "no `model_type`"),
    "config_gone": ({"config__json": None}, "no `config.json`"),
    "gguf_only": (
        {"model__safetensors": None, "model__gguf": b"GGUF"},
        "it has `.gguf`, which MLX's server does not load",
    ),
    "truncated": ({"model__safetensors": b"\xff\x00\x00\x00\x00\x00\x00\x00{"}, "truncated"),
    "huge": ({"model__safetensors": b"\xff" * 64}, "the format allows"),
    "not_a_header": ({"model__safetensors": b"\x02\x00\x00\x00\x00\x00\x00\x00]["}, "not JSON"),
    "empty": ({"model__safetensors": b""}, "too short"),
    "config_of_digits": (
        {"config__json": b'{"model_type": "llama", "a": ' + b"1" * 5000 + b"}"},
        "`config.json` is not JSON",
    ),
}


@pytest.mark.parametrize("case", sorted(BAD))
def test_a_bad_repository_is_refused_in_one_line(case, hub, files, tmp_path):
    """One clear error, nothing run, nothing left behind."""
    contents, says = BAD[case]
    bad = changed(hub, files, tmp_path, case.replace("_", "-"), **contents)
    path = tmp_path / "locks" / "models.lock"
    path.parent.mkdir()

    with pytest.raises(lock.LockError) as raised:
        ensure(hub, path, bad)

    assert says in str(raised.value)
    assert 1 == len(str(raised.value).splitlines())
    assert [] == list(path.parent.iterdir())


def test_weights_in_a_folder_of_a_repository_are_none_of_the_models(hub, files, tmp_path):
    """mlx-lm loads what is at the top; a name that begins as theirs does is no reason to ask."""
    directory = tmp_path / "repo"
    (directory / "model_fp16").mkdir(parents=True)
    for file in files.iterdir():
        (directory / file.name).write_bytes(file.read_bytes())
    (directory / "model_fp16" / "weights.safetensors").write_bytes(b"another layout")
    asked = model("org/folder", hub.add_repo("org/folder", directory))

    found = ensure(hub, tmp_path / "models.lock", asked)

    assert ["config.json", "model.safetensors", "tokenizer.json"] == [
        file.path for file in found.models[asked.source].files
    ]


def test_what_no_plan_could_read_is_not_kept(hub, files, commit, tmp_path, monkeypatch):
    """In the lock it would keep every other model from being planned."""
    odd = changed(hub, files, tmp_path, "odd", tokenizer__json=b"{ }")
    path = tmp_path / "models.lock"
    good = model("org/llama", commit)
    ensure(hub, path, good)
    traced = tracing.trace
    monkeypatch.setattr(tracing, "trace", lambda *it: replace(traced(*it), context_max=-5))

    with pytest.raises(lock.LockError) as raised:
        ensure(hub, path, odd)

    assert "context_max: input should be greater than or equal to 0" in str(raised.value)
    assert 1 == len(str(raised.value).splitlines())
    assert [good.source] == list(lock.read(path).models)


@pytest.mark.parametrize("said", [131072.0, "131072"])
def test_an_odd_longest_context_costs_no_other_model_its_plan(said, hub, files, tmp_path):
    """Many of the hub's configurations were written by a program, some by hand."""
    config = json.loads((files / "config.json").read_text()) | {"max_position_embeddings": said}
    name = f"odd-{type(said).__name__}"
    odd = changed(hub, files, tmp_path, name, config__json=json.dumps(config).encode())

    found = ensure(hub, tmp_path / "models.lock", odd)

    assert found == lock.read(tmp_path / "models.lock")
    assert found.traced(odd, "gpu").context_max == (131072 if said == 131072.0 else None)


def test_every_bad_model_is_named_and_the_good_one_is_kept(hub, commit, files, tmp_path):
    """A mistake in one costs the others nothing."""
    bad = changed(hub, files, tmp_path, "bad-one", config__json=b"{")
    path = tmp_path / "models.lock"

    with pytest.raises(lock.LockError) as raised:
        ensure(hub, path, bad, model("org/none", NO_COMMIT), model("org/llama", commit))

    assert 2 == len(str(raised.value).splitlines())
    assert [f"org/llama@{commit}"] == list(lock.read(path).models)


@pytest.mark.usefixtures("commit")
def test_what_the_hub_refuses_says_what_to_do(hub, files, tmp_path):
    """Not there, no such commit, private, gated: each with its way out."""
    path = tmp_path / "models.lock"
    private = model("org/private", hub.add_repo("org/private", files, private=True))
    gated = model("org/gated", hub.add_repo("org/gated", files, gated=True))
    for asked, says in (
        (model("org/none", NO_COMMIT), "not on http"),
        (model("org/llama", NO_COMMIT), "no such commit"),
        (private, "give a token (`hub.token`)"),
        (gated, "accept its terms"),
    ):
        with pytest.raises(lock.LockError) as raised:
            ensure(hub, path, asked)
        assert says in str(raised.value), says
    hub.add_token("hf_secret", "org/private", "org/gated")
    found = ensure(hub, path, private, gated, token="hf_secret")
    assert 2 == len(found.models)
    assert "hf_secret" not in path.read_text()


def test_an_address_in_the_environment_that_is_none_is_said_so(hub, commit, tmp_path, monkeypatch):
    """The client reads it, though it is told another one; what is locked needs no client."""
    path, llama = tmp_path / "models.lock", model("org/llama", commit)
    monkeypatch.setenv("HF_ENDPOINT", "http://[bad")
    with pytest.raises(lock.LockError, match=r"HF_ENDPOINT: http://\[bad: no address of a hub"):
        ensure(hub, path, llama)
    monkeypatch.delenv("HF_ENDPOINT")
    ensure(hub, path, llama)
    monkeypatch.setenv("HF_ENDPOINT", "http://[bad")
    ensure(hub, path, llama)


def test_a_file_that_hangs_is_given_up_on(hub, commit, tmp_path, monkeypatch):
    """Within the time limit, by name."""
    monkeypatch.setattr(client, "REQUEST_SECONDS", 1.0)
    start = time.monotonic()

    with (
        hub.afflicted(Fault(kind="hang")),
        pytest.raises(lock.LockError, match="sent nothing for"),
    ):
        ensure(hub, tmp_path / "models.lock", model("org/llama", commit))

    assert time.monotonic() - start < 30
    assert [] == list(tmp_path.iterdir())


def test_a_hub_that_never_answers_is_given_up_on(commit, tmp_path, monkeypatch):
    """It takes the connection and says nothing."""
    monkeypatch.setattr(client, "REQUEST_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(lock.LockError, match="sent nothing for"):
            lock.ensure([(model("org/llama", commit), "gpu")], tmp_path / "lock", endpoint=address)


def test_a_hub_that_is_not_there_is_said_so(commit, tmp_path):
    """A closed port, in one line."""
    with pytest.raises(lock.LockError, match="cannot be reached") as raised:
        lock.ensure(
            [(model("org/llama", commit), "gpu")], tmp_path / "lock", endpoint="http://127.0.0.1:9"
        )
    assert 1 == len(str(raised.value).splitlines())


def test_remote_code_is_refused_and_never_run(hub, files, tmp_path):
    """A `model_file` is a program of the repository's: mlx-lm refuses it, and so the plan does."""
    config = json.loads((files / "config.json").read_text()) | {"model_file": "evil.py"}
    ran = tmp_path / "ran"
    evil = changed(
        hub,
        files,
        tmp_path,
        "evil",
        config__json=json.dumps(config).encode(),
        evil__py=f"open({str(ran)!r}, 'w')".encode(),
    )

    found = ensure(hub, tmp_path / "models.lock", evil)

    assert "custom module" in found.traced(evil, "gpu")
    assert not ran.exists()


def test_an_architecture_that_mlx_lm_has_not_is_a_verdict(hub, files, tmp_path):
    """It is written down, so that the next run need not ask again."""
    config = json.loads((files / "config.json").read_text()) | {"model_type": "future9"}
    new = changed(hub, files, tmp_path, "future", config__json=json.dumps(config).encode())

    found = ensure(hub, tmp_path / "models.lock", new)

    assert "future9 not supported" in found.traced(new, "gpu")


@pytest.mark.parametrize(
    ("limits", "says"), [({"seconds": 0.05}, "took more than"), ({"memory_bytes": 2**25}, "failed")]
)
def test_the_trace_has_limits_and_leaves_nothing(limits, says, files, tmp_path, monkeypatch):
    """Time and memory of the child are bounded; its directory goes with it."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    texts = {"config.json": (files / "config.json").read_bytes()}

    with pytest.raises(tracing.TraceError, match=says):
        tracing.trace(texts, {}, "gpu", **limits)

    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_a_plan_that_is_ended_takes_its_trace_along(how, tmp_path):
    """Both children; and the directory, where it could still be removed."""
    _end_amid_a_trace(how, tmp_path, [ROOT / "plan.py"])


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_nor_is_the_end_lost_amid_the_start_of_a_trace(how, tmp_path):
    """In what Python runs at a fork: an exception there is printed and forgotten."""
    slow = tmp_path / "slow.py"
    slow.write_text(
        "import os, runpy, sys, time\n"
        "os.register_at_fork(after_in_parent=lambda: time.sleep(1))\n"
        "sys.path.insert(0, os.path.dirname(sys.argv[1]))\n"
        "del sys.argv[0]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )

    _end_amid_a_trace(how, tmp_path, [slow, ROOT / "plan.py"])


def _end_amid_a_trace(how, tmp_path, program):
    directory, place = llama.write(tmp_path / "model", layers=400), tmp_path / "tmp"  # 10 s
    place.mkdir()
    plan = subprocess.Popen(
        [sys.executable, *program, "--model", directory, "--gpu", "H200"],
        env={**os.environ, "TMPDIR": str(place), "XDG_CACHE_HOME": str(tmp_path)},
        stderr=subprocess.PIPE,
        # A shell starts what it puts in the background with SIGINT ignored; these tests, perhaps.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )

    def traces():
        seen = (one / "cmdline" for one in Path("/proc").iterdir() if one.name.isdigit())
        return [one for one in seen if str(place).encode() in _read(one)]

    try:
        _until(lambda: len(traces()) == 2, seconds=20)
        plan.send_signal(how)
        _, said = plan.communicate(timeout=10)
    finally:
        plan.kill()

    _until(lambda: not traces(), seconds=3)
    assert how == signal.SIGKILL or not [*place.iterdir()]
    assert b"Traceback" not in said
    assert plan.returncode in {-how, 1, 128 + how}


def _read(path):
    try:
        return path.read_bytes()
    except OSError:  # it has ended meanwhile
        return b""


def _until(true, *, seconds):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 99}', '{"format": 1}', "\0"])
def test_a_lock_that_is_none_is_refused(content, tmp_path):
    """Never taken for an empty one."""
    path = tmp_path / "models.lock"
    path.write_text(content)
    with pytest.raises(lock.LockError, match=r"models\.lock"):
        lock.read(path)


def test_a_directory_that_is_not_here_says_what_to_do(tmp_path):
    """The path is one on the host; the controller has to have seen it once."""
    gone = Model(path="/srv/models/gone", name="gone", context=4096)
    with pytest.raises(lock.LockError, match=r"put its `config\.json`"):
        lock.ensure([(gone, "gpu")], tmp_path / "models.lock")


def test_a_failed_write_leaves_the_old_lock(hub, commit, tmp_path, monkeypatch):
    """Written beside it, then moved over it."""
    path = tmp_path / "models.lock"
    found = ensure(hub, path, model("org/llama", commit))
    before = path.read_text()
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))

    with pytest.raises(OSError, match="disk full"):
        lock.write(found, path)

    assert before == path.read_text()
    assert [path] == list(tmp_path.iterdir())


def here(directory):
    return Model(path=str(directory), name="llama", context=4096)


def test_a_directory_that_holds_another_model_now_is_traced_again(tmp_path):
    """Under the same path, whether its configuration or its tensors are others."""
    path, directory = tmp_path / "models.lock", tmp_path / "model"
    weights = []
    for more in ({}, {"layers": 4}, {"heads": 8}):
        llama.write(directory, **more)
        found = lock.ensure([(here(directory), "gpu")], path)
        weights.append(found.traced(here(directory), "gpu").rank(1))
        assert found == lock.read(path)

    assert weights[0].weights < weights[1].weights
    assert weights[1].weights != weights[2].weights


def test_a_directory_that_is_as_it_was_is_not_traced_again(tmp_path, monkeypatch):
    """Nor is one that is not here: then the lock is all that is known."""
    path, directory = tmp_path / "models.lock", llama.write(tmp_path / "model")
    first = lock.ensure([(here(directory), "gpu")], path)
    written = path.stat().st_mtime_ns
    monkeypatch.setattr(tracing, "trace", None)

    assert first == lock.ensure([(here(directory), "gpu")], path)
    directory.rename(tmp_path / "elsewhere")
    assert first == lock.ensure([(here(directory), "gpu")], path)
    assert written == path.stat().st_mtime_ns


def test_weights_in_a_directory_are_hashed_for_a_deploy_once_and_when_they_changed(
    tmp_path, monkeypatch
):
    """A plan reads none of them; a deploy reads those again whose time or size is another."""
    path, directory = tmp_path / "models.lock", llama.write(tmp_path / "model")
    file = directory / "model.safetensors"
    hashed, told = [], []
    digest = hashlib.file_digest
    monkeypatch.setattr(
        hashlib, "file_digest", lambda it, kind: hashed.append(it.name) or digest(it, kind)
    )

    def ensure(**more):
        found = lock.ensure([(here(directory), "gpu")], path, progress=told.append, **more)
        entry = found.models[str(directory)]
        return entry.hashed, {one.path: one.sha256 for one in entry.files}[file.name]

    assert (False, None) == ensure()
    assert not hashed
    first = ensure(hashed=True)
    assert first == ensure(hashed=True) == ensure()
    assert [str(file)] == hashed
    with file.open("r+b") as weights:
        weights.seek(-1, os.SEEK_END)
        weights.write(b"\1")
    os.utime(file, ns=(1, 1))
    assert first == ensure()
    assert first != ensure(hashed=True)
    assert [str(file)] * 2 == hashed
    assert ["headers, then a trace", "hashes of 3 MiB", "hashes of 3 MiB"] == [
        words.removeprefix(f"{directory}: ") for words in told
    ]


def test_what_another_plan_wrote_meanwhile_is_kept(tmp_path):
    """Read again before it is replaced."""
    path = tmp_path / "models.lock"
    one, other = (here(llama.write(tmp_path / name)) for name in ("one", "other"))

    lock.ensure([(one, "gpu")], path, progress=lambda _: lock.ensure([(other, "gpu")], path))

    assert {one.source, other.source} == set(lock.read(path).models)


def test_hashes_that_a_deploy_wrote_meanwhile_are_kept(tmp_path):
    """The plan that traced beside it has none of them."""
    path = tmp_path / "models.lock"
    one = here(llama.write(tmp_path / "model"))

    def deploy(_):
        lock.ensure([(one, "cpu")], path, hashed=True)

    lock.ensure([(one, "gpu")], path, progress=deploy)

    entry = lock.read(path).models[one.source]
    assert entry.hashed
    assert 2 == len(entry.traces)


def test_a_model_is_traced_for_what_it_is_to_run_on(tmp_path, monkeypatch):
    """For a GPU, for a CPU, each once and when it is asked for; two at once lose neither."""
    path = tmp_path / "models.lock"
    one = here(llama.write(tmp_path / "model"))

    first = lock.ensure([(one, "gpu")], path)
    assert first.traced(one, "cpu") is None
    written = path.read_text()
    found = lock.ensure([(one, "cpu"), (one, "gpu")], path)
    assert found.traced(one, "gpu") == first.traced(one, "gpu")
    assert set(found.traced(one, "cpu").programs) > {"chunk", "join"}
    assert found == lock.read(path)
    path.unlink()
    lock.ensure([(one, "cpu")], path, progress=lambda _: path.write_text(written))
    assert found == lock.read(path)
    monkeypatch.setattr(tracing, "trace", None)
    assert found == lock.ensure([(one, "cpu"), (one, "gpu")], path)


def test_two_that_write_at_once_lose_nothing(tmp_path):
    """One waits for the other."""
    path = tmp_path / "models.lock"
    program = f"""
import sys
from pathlib import Path
from hub.lock import Checkpoint, Entry, _add
for number in range(40):
    checkpoint = Checkpoint(tensors=1, bytes_by_dtype={{}})
    entry = Entry(source=f"{{sys.argv[1]}}{{number}}", files=(), checkpoint=checkpoint)
    _add(entry, Path({str(path)!r}))
"""
    both = [subprocess.Popen([sys.executable, "-c", program, name], cwd=ROOT) for name in "ab"]
    assert [0, 0] == [one.wait(60) for one in both]
    assert 80 == len(lock.read(path).models)
    assert [path] == list(tmp_path.iterdir())


def test_a_lock_that_cannot_be_written_is_said_before_the_trace(tmp_path, monkeypatch):
    """A trace takes seconds, a download longer."""
    monkeypatch.setattr(tracing, "trace", None)
    model = here(llama.write(tmp_path / "model"))
    with pytest.raises(lock.LockError, match="is no writable directory"):
        lock.ensure([(model, "gpu")], tmp_path / "nowhere" / "models.lock")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The text of a lock of one model."""
    place = tmp_path_factory.mktemp("written")
    lock.ensure([(here(llama.write(place / "model")), "gpu")], place / "models.lock")
    return (place / "models.lock").read_text()


CORRUPT = {
    "weights below nothing": lambda traced: traced["ranks"]["1"].update(weights=-(10**12)),
    "a word for weights": lambda traced: traced["ranks"]["1"].update(weights="x"),
    "a word for bytes": lambda traced: traced["ranks"]["1"]["kinds"][0].update(token_bytes="5"),
    "a word for what loading takes": lambda traced: traced.update(loading="9"),
    "a number for head sizes": lambda traced: traced.update(head_dims=5),
    "no evaluations": lambda traced: traced["programs"].clear(),
    "no chunk": lambda traced: traced["programs"].pop("chunk fused"),
    "an evaluation of nothing": lambda traced: traced["programs"]["join"].clear(),
    "half an evaluation": lambda traced: traced["programs"]["join"].update(tasks="AAAA"),
    "no ranks": lambda traced: traced["ranks"].clear(),
    "no whole model": lambda traced: traced["ranks"].update({"1": "no"}),
}


@pytest.mark.parametrize("case", sorted(CORRUPT))
def test_a_lock_that_lacks_what_a_plan_asks_is_refused(case, written, tmp_path):
    """Never taken for a model that needs less; the way out is told, in one line."""
    data = json.loads(written)
    (entry,) = data["models"].values()
    (traced,) = entry["traces"].values()
    CORRUPT[case](traced)
    path = tmp_path / "models.lock"
    path.write_text(json.dumps(data))

    with pytest.raises(lock.LockError, match="remove it, and it is made anew") as raised:
        lock.read(path)
    assert 1 == len(str(raised.value).splitlines())


def test_a_trace_for_an_older_gpu_has_attention_in_steps_too(written, tmp_path):
    """What was traced for a newer one does not do."""
    path = tmp_path / "models.lock"
    path.write_text(written.replace(' gpu"', ' older gpu"'))

    with pytest.raises(lock.LockError, match=r"nothing of `programs\.admit kernels`"):
        lock.read(path)


def test_what_another_mlx_evaluated_is_traced_again(tmp_path):
    """Its order and its sizes are that version's; so are its refusals."""
    path = tmp_path / "models.lock"
    one = here(llama.write(tmp_path / "model"))
    first = lock.ensure([(one, "gpu")], path)
    (key,) = first.models[one.source].traces
    before = key.replace(f" {version('mlx')} ", " 0.1.0 ")
    path.write_text(path.read_text().replace(f'"{key}"', f'"{before}"'))

    assert lock.read(path).traced(one, "gpu") is None
    assert {before, key} == set(lock.ensure([(one, "gpu")], path).models[one.source].traces)


def test_a_trace_for_a_processor_that_there_is_none_of_is_refused(written, tmp_path):
    """A plan would not find it, and trace again at every run."""
    path = tmp_path / "models.lock"
    path.write_text(written.replace(' gpu"', ' tpu"'))

    with pytest.raises(
        lock.LockError, match="tpu: expected versions of mlx-lm and mlx, and one of"
    ):
        lock.read(path)


def test_a_lock_with_a_conflict_of_git_says_the_way_out(written, tmp_path):
    """It lies beside the inventories, where such a thing happens."""
    path = tmp_path / "models.lock"
    path.write_text(f"<<<<<<< HEAD\n{written}=======\n{written}>>>>>>> other\n")
    with pytest.raises(lock.LockError, match="remove it, and it is made anew"):
        lock.read(path)
