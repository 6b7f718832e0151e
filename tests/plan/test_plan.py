"""`./plan.py` as a user runs it: what it prints, and how it ends."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hub import lock
from hub.lock import Checkpoint, Entry, Lock
from planner.declared import Model
from planner.program import Program
from planner.traced import Traced
from tests.planner import llama
from tests.planner.test_place import traced as without_programs

ROOT = Path(__file__).parents[2]
GIB = 2**30
WAYS = ("", " kernels", " fused")  # of a CPU, of GPUs
NOTHING = ((({}, {}, {}, 1),), (0,))  # an operation that takes nothing


def traced(*arguments, **more):
    """A trace as the lock keeps it: with all evaluations of the server's."""
    chunks = [f"{it}{way}" for it in ("admit", "chunk", "stay") for way in WAYS]
    program = Program(tasks=(NOTHING,), runs=(NOTHING,))
    made = without_programs(*arguments, **more).to_json()
    programs = {name: program.to_json() for name in [*chunks, "join", "roll"]}
    return Traced.from_json(json.loads(json.dumps({**made, "programs": programs})))


def run(*words, cwd=ROOT, **environment):
    """Exit status, stdout, stderr of `./plan.py`."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "plan.py"), *map(str, words)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", **environment},
        check=False,
        timeout=60,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def known(tmp_path):
    """A lock of a small and a big model, both directories that are nowhere."""
    entries = {}
    for name, weights, shards in (("small", 8 * GIB, True), ("big", 150 * GIB, False)):
        source = Model(path=f"/models/{name}", name=name, context=8192).source
        entries[source] = Entry(
            source=source,
            files=(),
            checkpoint=Checkpoint(tensors=1, bytes_by_dtype={"BF16": weights}),
            traces={lock.trace_key("gpu"): traced(weights, shards=shards, bits=4.5)},
        )
    path = tmp_path / "models.lock"
    lock.write(Lock(models=entries), path)
    return path


def inventory(tmp_path, known, *models, name="gpu.py", **more):
    """An inventory of one host with two RTX PRO 6000."""
    data = {
        "gpus": ["NVIDIA RTX PRO 6000 Blackwell Workstation Edition"] * 2,
        "models": [{"path": f"/models/{it}", "name": it, "context": 8192} for it in models],
        "models_lock": str(known),
        **more,
    }
    path = tmp_path / name
    path.write_text(f"gpu = ([('h1', {{}})], {data!r})\n")
    return path


def test_everything_fits_ends_with_0(tmp_path, known):
    """The table names each instance and where it is."""
    status, out, _ = run(inventory(tmp_path, known, "small"))
    assert 0 == status
    assert "small.0" in out
    assert "everything fits" in out


def test_hosts_with_locks_of_their_own_have_what_both_know(tmp_path, known):
    """One has the model's trace for a newer GPU, the other for an older one."""
    older = tmp_path / "older.lock"
    older.write_text(known.read_text().replace(' gpu"', ' older gpu"'))
    names = ("NVIDIA H200", "Quadro RTX 8000")
    data = [
        {"gpus": [name], "models_lock": str(path), "models": [
            {"path": "/models/small", "name": "small", "context": 8192}]}
        for name, path in zip(names, (known, older), strict=True)
    ]  # fmt: skip
    path = tmp_path / "both.py"
    path.write_text(f"gpu = [('h1', {data[0]!r}), ('h2', {data[1]!r})]\n")

    status, out, errors = run(path)

    assert (0, "") == (status, errors)
    assert "everything fits" in out


def test_what_does_not_fit_ends_with_2_and_says_why_and_what_to_do(tmp_path, known):
    """Both numbers, why MLX cannot use both cards, and who could."""
    status, out, _ = run(inventory(tmp_path, known, "small", "big"))
    text = " ".join(out.split())
    assert 2 == status
    assert "needs 15" in text
    assert "MLX cannot split it over 2 GPUs" in text
    assert "NCCL back end lacks" in text
    for engine in ("vLLM", "SGLang", "llama.cpp", "TensorRT-LLM"):
        assert engine in text
    assert "small.0" in out, "the others are planned all the same"


def test_json_is_one_object_with_the_documented_keys(tmp_path, known):
    """What docs/planner.md says, no more and no less."""
    status, out, _ = run(inventory(tmp_path, known, "small", "big"), "--json")
    plan = json.loads(out)
    page = (ROOT / "docs/planner.md").read_text()
    assert 2 == status

    def keys(value, at=""):
        if isinstance(value, dict):
            for key, inner in value.items():
                yield f"{at}{key}"
                yield from keys(inner, f"{at}{key}.")
        elif isinstance(value, list):
            for inner in value[:1]:
                yield from keys(inner, at.removesuffix(".") + "[].")

    section = page.partition("## `--json`")[2].partition("\n## ")[0]
    assert set(re.findall(r"`([a-z_.\[\]]+)`", section)) == set(keys(plan))


A_MODEL = ["--model", "a/b@" + "0" * 40]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "give an INVENTORY"),
        (["nowhere.py"], "no such inventory"),
        (["--model", "/models/small", "--gpu", "H200"], "no such directory"),
        (["--model", "./models", "--gpu", "H200"], "no such directory"),
        (A_MODEL, "either --gpu NAME or --memory GIB"),
        ([*A_MODEL, "--gpu", "RTX"], "expected one card"),
        ([*A_MODEL, "--gpu", "A100"], "names `NVIDIA A100-SXM4-40GB`, `NVIDIA A100-PCIE-40GB`"),
        ([*A_MODEL, "--gpu", "rtx4090"], "(near: `NVIDIA GeForce RTX 4090`"),
        ([*A_MODEL, "--gpu", ""], "none of planner/gpus.py"),
        (["--model", "a/b@main", "--gpu", "H200"], "revision"),
        (["--model", "a/b", "--gpu", "nope"], "expected one card"),
        (["--model", "a/b", "--gpu", "H200", "--context", "0"], "context: input should be greater"),
        (["--model", "a/b", "--gpu", "H200", "--why", "c"], "declared: `b`"),
        (["--model", "a/b", "--gpu", "H200"], "http://127.0.0.1:9 cannot be reached"),
        (["--model", "", "--gpu", "H200"], "--model '': no such directory"),
        ([*A_MODEL, "--memory", "nan"], "expected a number of GiB"),
        ([*A_MODEL, "--memory", "inf"], "expected a number of GiB"),
        ([*A_MODEL, "--memory", "0"], "expected a number of GiB"),
        ([*A_MODEL, "--memory", "much"], "'much' is not a valid float"),
        ([*A_MODEL, "--gpu", "H200", "--gpus", "0"], "'--gpus': 0 is not in the range"),
        ([*A_MODEL, "--memory", "8", "--gpus", "2"], "--gpus goes with --gpu"),
        ([*A_MODEL, "--gpu", "H200", "--svg", "/nowhere/x"], "/nowhere/x: expected a file in"),
        ([*A_MODEL, "--gpu", "H200", "--lock", "/nowhere/d/x"], "no writable directory"),
        ([*A_MODEL, "--gpu", "H200", "--why", "c"], "declared: `b`"),
        ([*A_MODEL, "--gpu", "H200", "--why", "b", "--json"], "either --why or --json"),
        (["nowhere.py", *A_MODEL, "--gpu", "H200"], "either an INVENTORY or --model"),
        (["nowhere.py", "--gpu", "H200"], "--gpu goes with --model"),
        (["nowhere.py", "--context", "5"], "--context goes with --model"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_what_cannot_be_told_ends_with_1_and_one_line(words, says, tmp_path):
    """On stderr, with nothing on stdout."""
    status, out, err = run(*words, XDG_CACHE_HOME=str(tmp_path))
    assert 1 == status
    assert not out
    assert says in err
    assert 1 == len(err.splitlines())


def test_a_what_if_touches_nothing_of_the_projects(tmp_path):
    """What it learns is in the user's cache, for the next one."""
    directory = llama.write(tmp_path / "model")
    ours = ROOT / "inventories/models.lock"
    before = ours.read_bytes() if ours.exists() else None

    status, out, _ = run("--model", ".", "--memory", 8, cwd=directory, XDG_CACHE_HOME=str(tmp_path))

    assert 0 == status, out
    assert "model.0" in out
    assert [str(directory)] == list(lock.read(tmp_path / "mlx-hosts/models.lock").models)
    assert before == (ours.read_bytes() if ours.exists() else None)


@pytest.mark.parametrize("name", ["模型", "_"])
def test_a_directory_may_be_called_anything(name, tmp_path):
    """Nobody can give a what-if a `slug`."""
    directory = llama.write(tmp_path / name)
    status, out, _ = run("--model", directory, "--memory", 8, XDG_CACHE_HOME=str(tmp_path))
    assert 0 == status, out
    assert "model.0" in out


def test_a_token_that_is_declared_and_not_there_is_named(tmp_path, known):
    """No other is taken in its place."""
    path = inventory(tmp_path, known, "small", hub={"token": {"env": "NOWHERE_TOKEN"}})
    status, out, err = run(path, HF_TOKEN="hf_of_somebody_else")
    assert (1, "") == (status, out)
    assert "hub.token: the environment has no `NOWHERE_TOKEN`" in err


def test_a_token_of_a_file_that_is_not_text_is_said_so(tmp_path, known):
    """A picture, say."""
    (tmp_path / "token").write_bytes(b"\xff\xd8\xff")
    path = inventory(tmp_path, known, "small", hub={"token": {"file": str(tmp_path / "token")}})
    assert (1, "", f"hub.token: {tmp_path}/token: not UTF-8; expected a token\n") == run(path)


@pytest.mark.parametrize("address", ["http://[bad", "http://host:notaport"])
def test_an_address_of_a_hub_that_is_none_is_said_so(address):
    """The hub's client cannot be imported then."""
    for words in (A_MODEL, ["--model", "a/b"]):
        status, out, err = run(*words, "--gpu", "H200", HF_ENDPOINT=address)
        assert (1, "") == (status, out)
        assert err.startswith(f"HF_ENDPOINT: {address}: no address of a hub: ")
        assert 1 == len(err.splitlines())


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("raise RuntimeError('no')", "RuntimeError: no"),
        ("raise SystemExit(0)", "SystemExit: 0"),
        ("gpu = []", "has no hosts"),
        ("gpu = [('h', {'gpuz': 1, 'models': [{'name': 'x'}]})]", "gpuz: unknown"),
        ("def (", "SyntaxError"),
    ],
)
def test_an_inventory_that_is_wrong_ends_with_1(tmp_path, content, says):
    """Every mistake at once, each a line."""
    path = tmp_path / "bad.py"
    path.write_text(content)
    status, out, err = run(path)
    assert 1 == status
    assert not out
    assert says in err


def test_why_prints_every_rule_with_its_numbers(tmp_path, known):
    """One GPU, two, and each setting that was tried."""
    status, out, _ = run(inventory(tmp_path, known, "small", "big"), "--why", "big")
    assert 2 == status
    for words in ("one GPU: weights 150.0 GiB", "2 GPUs: its architecture has no `shard`",
                  "does not fit", "assumed: 2 GiB for a CUDA process", "refused:"):  # fmt: skip
        assert words in out


def test_a_terminal_that_has_no_bars_gets_the_plan_all_the_same(tmp_path, known):
    """What it cannot show is a question mark."""
    for encoding in ("latin-1", "ascii"):
        for words in ([], ["--why", "small"]):
            status, out, err = run(
                inventory(tmp_path, known, "small"), *words, PYTHONIOENCODING=encoding
            )
            assert (0, "") == (status, err)
            assert "small" in out


@pytest.mark.parametrize("words", [[], ["--json"], ["--why", "small"]])
def test_a_plan_that_cannot_be_printed_is_said_so(words, tmp_path, known):
    """No plan is taken for made that nobody got."""
    command = [sys.executable, ROOT / "plan.py", inventory(tmp_path, known, "small"), *words]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (1, "stdout: No space left on device\n") == (done.returncode, done.stderr)
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (1, "") == (done.returncode, done.stderr)


def test_ctrl_c_while_the_program_is_read_ends_it(tmp_path):
    """Its libraries take half a second."""
    (tmp_path / "click.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    assert (130, "", "") == run(PYTHONPATH=str(tmp_path))


def test_the_picture_is_made_by_the_program(tmp_path, known):
    """An SVG of the same plan."""
    picture = tmp_path / "plan.svg"
    run(inventory(tmp_path, known, "small"), "--svg", picture)
    assert "<svg" in picture.read_text()
    assert "small.0" in picture.read_text().replace("&#160;", " ")


def test_one_model_from_the_lock_takes_little_more_than_pydantic(known):
    """Of processor time, in turn: less than twice what its import takes, on whatever machine.

    In seconds: `benchmarks/planner_speed.py --locked`.
    """
    program = f"""
from hub.lock import ensure
from planner.placement import place
from planner.declared import Gpu, Host, Model
card = Gpu(name="x", memory_bytes=96 * 2**30, compute_capability="12.0")
model = Model(path="/models/small", name="small", context=8192)
host = Host(name="h", gpus=(card,), models=(model,))
assert place([host], ensure([(model, "gpu")], {str(known)!r})).fits
"""

    def took(work):
        done = subprocess.run(
            [sys.executable, "-c", f"{work}\nimport time\nprint(time.process_time())"],
            capture_output=True, text=True, check=True, cwd=ROOT,
        )  # fmt: skip
        return float(done.stdout)

    floor = "import pydantic\nclass One(pydantic.BaseModel):\n    x: int"
    times = [(took(program), took(floor)) for _ in range(5)]
    assert min(ours for ours, _ in times) < 2 * min(theirs for _, theirs in times), times
