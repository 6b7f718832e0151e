"""The hub speaks the real protocol: judged by the unmodified huggingface_hub, and by git."""

import hashlib
import json
import os
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import parse_ratelimit_headers

from lab.hub import Fault, Hub
from lab.machine import LabError
from lab.models import tiny_llama

WEIGHTS = hashlib.sha256(b"seed").digest() * (1 << 16)
"""Two megabytes, no two chunks of them easily confused."""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A hub on loopback with a page size of two, so that trees have pages."""
    with Hub(tmp_path_factory.mktemp("hub"), page_size=2) as running:
        yield running


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository's files: plain ones, a folder, one for LFS."""
    directory = tmp_path_factory.mktemp("files")
    (directory / "config.json").write_text('{"model_type": "llama"}\n')
    (directory / "empty.txt").write_text("")
    (directory / "a folder/deep").mkdir(parents=True)
    (directory / "a folder/deep/näme.txt").write_text("in a folder\n")
    (directory / "a folder.txt").write_text("sorts before the folder in git\n")
    (directory / "model.safetensors").write_bytes(WEIGHTS)
    return directory


@pytest.fixture(scope="module")
def commit(hub: Hub, files: Path) -> str:
    """The commit of a public repository, `org/model`."""
    return hub.add_repo("org/model", files)


@pytest.fixture
def api(hub: Hub) -> HfApi:
    """The real client, without a token."""
    hub.forget_asked()
    return HfApi(endpoint=hub.endpoint, token=False)


def same_tree(left: Path, right: Path) -> bool:
    """Whether two directories have the same files with the same contents."""
    listed = [
        {path.relative_to(top): path.read_bytes() for path in top.rglob("*") if path.is_file()}
        for top in (left, right)
    ]
    return listed[0] == listed[1]


class TestReading:
    """What is served is what was put in, under the ids that git gives it."""

    def test_ids_are_those_that_git_computes(
        self, commit: str, api: HfApi, files: Path, tmp_path: Path
    ) -> None:
        """git, given the same files and LFS pointers, arrives at the same ids, the commit's too."""
        git = ["git", "-C", str(tmp_path), "-c", "core.quotepath=off"]
        subprocess.run([*git, "init", "-q"], check=True)
        subprocess.run(["cp", "-r", f"{files}/.", str(tmp_path)], check=True)
        lfs = api.list_repo_tree("org/model", recursive=True)
        digest = hashlib.sha256(WEIGHTS).hexdigest()
        (tmp_path / "model.safetensors").write_text(
            f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\n"
            f"size {len(WEIGHTS)}\n"
        )
        subprocess.run([*git, "add", "."], check=True)
        by = {
            f"GIT_{role}_{what}": value
            for role in ("AUTHOR", "COMMITTER")
            for what, value in (
                ("NAME", "lab"),
                ("EMAIL", "lab@localhost"),
                ("DATE", "1700000000 +0000"),
            )
        }
        subprocess.run([*git, "commit", "-q", "-m", "lab"], check=True, env={**os.environ, **by})

        def ask(*words: str) -> str:
            return subprocess.run([*git, *words], capture_output=True, text=True, check=True).stdout

        listed = dict(
            reversed(line.split(" ", 2)[2].split("\t"))
            for line in ask("ls-tree", "-r", "-t", "HEAD").splitlines()
        )
        served = {
            one.path: getattr(one, "blob_id", None) or one.tree_id
            for one in lfs
        }  # fmt: skip
        assert served == listed
        assert ask("rev-parse", "HEAD").strip() == commit

    def test_a_tree_comes_in_pages(self, api: HfApi, commit: str, hub: Hub) -> None:
        """The client follows the links from page to page and misses nothing."""
        listed = [one.path for one in api.list_repo_tree("org/model", recursive=True)]
        assert listed == sorted(
            ["a folder", "a folder/deep", "a folder/deep/näme.txt", "a folder.txt", "config.json",
             "empty.txt", "model.safetensors"]
        )  # fmt: skip
        assert len([one for one in hub.asked() if "/tree/" in one["path"]]) == 4
        below = [one.path for one in api.list_repo_tree("org/model", "a folder", revision=commit)]
        assert below == ["a folder/deep"]

    def test_model_info_has_commit_sizes_and_hashes(self, api: HfApi, commit: str) -> None:
        """By branch, by commit, and with the files' metadata."""
        assert api.model_info("org/model").sha == commit
        assert api.model_info("org/model", revision=commit).sha == commit
        siblings = api.model_info("org/model", files_metadata=True).siblings
        assert siblings
        weights = next(one for one in siblings if one.rfilename == "model.safetensors")
        assert weights.size == len(WEIGHTS)
        assert weights.lfs
        assert weights.lfs.sha256 == hashlib.sha256(WEIGHTS).hexdigest()
        assert [one.size for one in siblings if one.rfilename == "empty.txt"] == [0]

    def test_paths_info_and_refs(self, api: HfApi, commit: str) -> None:
        """Single paths can be asked for, and what the branches are."""
        (found,) = api.get_paths_info("org/model", ["config.json", "nothing"])
        assert found.path == "config.json"
        assert [one.target_commit for one in api.list_repo_refs("org/model").branches] == [commit]

    def test_a_snapshot_is_the_files(
        self, hub: Hub, commit: str, files: Path, tmp_path: Path
    ) -> None:
        """A snapshot at the commit is the files, byte for byte, in the cache's layout."""
        got = snapshot_download(
            "org/model", revision=commit, endpoint=hub.endpoint, cache_dir=tmp_path, token=False
        )
        assert Path(got) == tmp_path / "models--org--model/snapshots" / commit
        assert same_tree(Path(got), files)
        blobs = {path.name for path in (tmp_path / "models--org--model/blobs").iterdir()}
        assert hashlib.sha256(WEIGHTS).hexdigest() in blobs

    def test_headers_of_plain_and_lfs_files(self, hub: Hub, commit: str) -> None:
        """HEAD tells commit, size and ETag; an LFS file is a redirect to another origin."""
        plain = httpx2.head(f"{hub.endpoint}/org/model/resolve/main/config.json")
        assert plain.status_code == 200
        assert plain.headers["X-Repo-Commit"] == commit
        assert plain.headers["Content-Length"] == "24"
        assert len(plain.headers["ETag"].strip('"')) == 40
        lfs = httpx2.head(f"{hub.endpoint}/org/model/resolve/main/model.safetensors")
        assert lfs.status_code == 302
        assert lfs.headers["X-Repo-Commit"] == commit
        assert lfs.headers["X-Linked-Size"] == str(len(WEIGHTS))
        assert len(lfs.headers["X-Linked-Etag"].strip('"')) == 64
        assert not lfs.headers["Location"].startswith(hub.endpoint)

    @pytest.mark.parametrize(
        ("asked", "status", "first", "last"),
        [
            ("bytes=0-0", 206, 0, 1),
            ("bytes=5-9", 206, 5, 10),
            ("bytes=2097150-", 206, 2097150, 2097152),
            ("bytes=2097150-9999999", 206, 2097150, 2097152),
            ("bytes=-3", 206, 2097149, 2097152),
            ("bytes=2097152-", 416, 0, 0),
        ],
    )
    def test_ranges(
        self, hub: Hub, commit: str, asked: str, status: int, first: int, last: int
    ) -> None:
        """Every form of a single range, and one beyond the end."""
        url = f"{hub.endpoint}/org/model/resolve/{commit}/model.safetensors"
        got = httpx2.get(url, headers={"Range": asked}, follow_redirects=True)
        assert got.status_code == status
        assert got.content == WEIGHTS[first:last]
        if status == 206:
            assert got.headers["Content-Range"] == f"bytes {first}-{last - 1}/{len(WEIGHTS)}"
        else:
            assert got.headers["Content-Range"] == f"bytes */{len(WEIGHTS)}"

    def test_a_checkpoints_header_is_read_by_range(self, hub: Hub, api: HfApi) -> None:
        """The tensors of a safetensors file are told without downloading it."""
        hub.add_repo("lab/tiny-llama", tiny_llama())
        hub.forget_asked()
        metadata = api.get_safetensors_metadata("lab/tiny-llama")
        assert "model.embed_tokens.weight" in metadata.files_metadata["model.safetensors"].tensors
        (ranged,) = [one for one in hub.asked() if one["server"] == "storage"]
        assert ranged["range"] == "bytes=0-100000"

    def test_a_second_commit_leaves_the_first(self, hub: Hub, api: HfApi, tmp_path: Path) -> None:
        """A branch moves on; the old commit can still be had; the same files are no new commit."""
        first, second = tmp_path / "1", tmp_path / "2"
        for directory in (first, second):
            directory.mkdir()
            (directory / "file.txt").write_text(directory.name)
        old = hub.add_repo("org/moving", first)
        assert hub.add_repo("org/moving", first) == old
        new = hub.add_repo("org/moving", second)
        assert new != old
        assert api.model_info("org/moving").sha == new
        for revision, text in ((old, "1"), (new, "2"), ("main", "2")):
            url = f"{hub.endpoint}/org/moving/resolve/{revision}/file.txt"
            assert httpx2.get(url).text == text


class TestRefusals:
    """Each refusal becomes the exception that the client has for it."""

    def test_what_is_not_there(self, hub: Hub, commit: str, api: HfApi) -> None:
        """A repository, a revision, a file, a folder."""
        with pytest.raises(RepositoryNotFoundError):
            api.model_info("org/nothing")
        with pytest.raises(RepositoryNotFoundError) as refused:
            HfApi(endpoint=hub.endpoint, token=hub.token).model_info("org/nothing")
        assert refused.value.response.status_code == 404
        with pytest.raises(RevisionNotFoundError):
            api.model_info("org/model", revision="0" * 40)
        with pytest.raises(RemoteEntryNotFoundError) as missing:
            api.get_hf_file_metadata(url=f"{hub.endpoint}/org/model/resolve/main/nothing.txt")
        assert missing.value.response.headers["X-Repo-Commit"] == commit
        with pytest.raises(RemoteEntryNotFoundError):
            list(api.list_repo_tree("org/model", "no folder"))

    def test_a_private_repository(self, hub: Hub, files: Path, tmp_path: Path) -> None:
        """Without the right token it does not exist; with it it is whole."""
        commit = hub.add_repo("org/private", files, private=True)
        hub.add_token("hf_right", "org/*")
        hub.add_token("hf_other", "elsewhere/*")
        for token, status in ((False, 401), ("hf_other", 404)):
            with pytest.raises(RepositoryNotFoundError) as refused:
                HfApi(endpoint=hub.endpoint, token=token).model_info("org/private")
            assert refused.value.response.status_code == status
        hub.forget_asked()
        got = snapshot_download(
            "org/private",
            revision=commit,
            endpoint=hub.endpoint,
            cache_dir=tmp_path,
            token="hf_right",
        )
        assert same_tree(Path(got), files)
        # The token opens the hub; the storage on its other origin never sees it.
        assert {(one["server"], one["with_token"]) for one in hub.asked()} == {
            ("hub", True),
            ("storage", False),
        }

    def test_a_gated_repository(self, hub: Hub, files: Path, tmp_path: Path) -> None:
        """Anyone may see it; its files are refused: 401 without a token, 403 without access."""
        hub.add_repo("org/gated", files, gated=True)
        hub.add_token("hf_stranger")
        assert HfApi(endpoint=hub.endpoint, token=False).model_info("org/gated").gated == "manual"
        for token, status in ((False, 401), ("hf_stranger", 403)):
            with pytest.raises(GatedRepoError) as refused:
                hf_hub_download(
                    "org/gated",
                    "config.json",
                    endpoint=hub.endpoint,
                    cache_dir=tmp_path,
                    token=token,
                )
            assert refused.value.response.status_code == status
        assert hf_hub_download(
            "org/gated", "config.json", endpoint=hub.endpoint, cache_dir=tmp_path, token=hub.token
        )

    def test_an_unknown_token(self, hub: Hub, commit: str) -> None:
        """A token that the hub does not know is refused even for what is public."""
        api = HfApi(endpoint=hub.endpoint, token="hf_unknown")
        with pytest.raises(HfHubHTTPError, match="401") as refused:
            api.model_info("org/model", revision=commit)
        assert not isinstance(refused.value, RepositoryNotFoundError)
        with pytest.raises(HfHubHTTPError, match="Invalid user token"):
            api.whoami()
        assert HfApi(endpoint=hub.endpoint, token=hub.token).whoami()["name"] == "lab"

    def test_mistakes_in_setting_up(self, hub: Hub, tmp_path: Path) -> None:
        """A wrong name and a missing directory are told, not served."""
        with pytest.raises(LabError, match="`nameless` is not a repository's name"):
            hub.add_repo("nameless", tmp_path)
        with pytest.raises(LabError, match="is not a directory"):
            hub.add_repo("org/empty", tmp_path / "nothing")


class TestFaults:
    """What goes wrong on demand, as the client sees it."""

    def download(self, hub: Hub, cache: Path, repository: str = "org/model") -> Path:
        """Download the weights with the real client."""
        where = {"endpoint": hub.endpoint, "cache_dir": cache, "token": False}
        return Path(hf_hub_download(repository, "model.safetensors", **where))

    def test_a_cut_connection_is_resumed(self, hub: Hub, tmp_path: Path) -> None:
        """After a cut the client asks for the rest, by range, and ends with the whole."""
        large = tmp_path / "large"
        large.mkdir()
        chunk = 10 << 20  # the client keeps what it got in whole chunks of this size
        content = bytes(chunk) + WEIGHTS
        (large / "model.safetensors").write_bytes(content)
        hub.add_repo("org/large", large)
        hub.forget_asked()
        with hub.afflicted(Fault(kind="cut", after_bytes=chunk + 1000, times=1)):
            got = self.download(hub, tmp_path, "org/large")
        assert got.read_bytes() == content
        first, second = (one for one in hub.asked() if one["server"] == "storage")
        assert (first["range"], first["bytes"]) == (None, chunk + 1000)
        assert (second["range"], second["bytes"]) == (f"bytes={chunk}-", len(WEIGHTS))

    def test_wrong_bytes_have_the_right_size(self, hub: Hub, commit: str, tmp_path: Path) -> None:
        """A corrupted file arrives without complaint: only its hash tells."""
        assert commit
        with hub.afflicted(Fault(kind="corrupt", path="org/model/*.safetensors", after_bytes=7)):
            got = self.download(hub, tmp_path).read_bytes()
        assert len(got) == len(WEIGHTS)
        assert [at for at in range(64) if got[at] != WEIGHTS[at]] == [7]

    def test_a_short_file_is_noticed(self, hub: Hub, commit: str, tmp_path: Path) -> None:
        """A file shorter than the hub said is refused by the client."""
        assert commit
        with (
            hub.afflicted(Fault(kind="short", after_bytes=1000)),
            pytest.raises(OSError, match="Consistency check failed"),
        ):
            self.download(hub, tmp_path)

    def test_too_many_requests(self, hub: Hub, commit: str, api: HfApi) -> None:
        """429 says when to come back, in both ways that the client reads."""
        with (
            hub.afflicted(Fault(kind="status", at="api", status=429, retry_after_s=7)),
            pytest.raises(HfHubHTTPError, match="429 Too Many Requests") as refused,
        ):
            api.model_info("org/model")
        assert refused.value.response.headers["Retry-After"] == "7"
        limit = parse_ratelimit_headers(refused.value.response.headers)
        assert limit
        assert (limit.remaining, limit.reset_in_seconds) == (0, 7)
        assert api.model_info("org/model").sha == commit

    def test_a_retried_refusal(self, hub: Hub, commit: str, tmp_path: Path) -> None:
        """A fault that strikes once is got over by the client's own retries."""
        assert commit
        fault = Fault(kind="status", at="content", path="*.safetensors", status=429, times=1)
        fault.retry_after_s = 0
        with hub.afflicted(fault):
            assert self.download(hub, tmp_path).read_bytes() == WEIGHTS

    def test_a_hanging_download(self, hub: Hub, commit: str) -> None:
        """It sends a part and then nothing, as long as the client has patience."""
        url = f"{hub.endpoint}/org/model/resolve/{commit}/model.safetensors"
        got = bytearray()

        def fetch() -> None:
            with httpx2.stream("GET", url, timeout=0.5, follow_redirects=True) as answer:
                for piece in answer.iter_bytes():
                    got.extend(piece)

        fault = Fault(kind="hang", after_bytes=5000)
        with hub.afflicted(fault), pytest.raises(httpx2.ReadTimeout):
            fetch()
        assert got == WEIGHTS[:5000]

    def test_a_slow_download(self, hub: Hub, commit: str) -> None:
        """Two megabytes at eight a second take a quarter of a second, and other requests none."""
        url = f"{hub.endpoint}/org/model/resolve/{commit}/model.safetensors"
        with hub.afflicted(Fault(kind="slow", bytes_per_second=8 << 20)):
            began = time.monotonic()
            assert httpx2.get(url, follow_redirects=True).content == WEIGHTS
            assert 0.2 < time.monotonic() - began < 2

    def test_a_stopped_hub_comes_back_where_it_was(self, tmp_path: Path, files: Path) -> None:
        """Stopped and started again it has its address, repositories and tokens."""
        with Hub(tmp_path / "hub") as hub:
            endpoint, commit = hub.endpoint, hub.add_repo("org/model", files, private=True)
            hub.stop()
            with pytest.raises(httpx2.ConnectError):
                httpx2.get(endpoint)
            hub.start()
            assert hub.endpoint == endpoint
            api = HfApi(endpoint=endpoint, token=hub.token)
            assert api.model_info("org/model").sha == commit

    def test_many_at_once(self, hub: Hub, commit: str) -> None:
        """Sixteen downloads at a time all get the whole file."""
        url = f"{hub.endpoint}/org/model/resolve/{commit}/model.safetensors"
        got: list[bool] = []

        def fetch() -> None:
            with urllib.request.urlopen(url, timeout=20) as answer:
                got.append(answer.read() == WEIGHTS)

        threads = [threading.Thread(target=fetch) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert got == [True] * 16


def test_a_hub_goes_with_its_owner(tmp_path: Path) -> None:
    """A hub whose process was killed does not stay behind."""
    program = (
        "import os, signal, sys; from pathlib import Path; from lab.hub import Hub;"
        "Hub(Path(sys.argv[1])).start(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    project = Path(__file__).parents[2]
    subprocess.run(
        [os.sys.executable, "-c", program, tmp_path], cwd=project, check=False, timeout=30
    )
    record = json.loads((tmp_path / "process.json").read_text())
    deadline = time.monotonic() + 5
    while Path(f"/proc/{record['pid']}").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not Path(f"/proc/{record['pid']}").exists()
