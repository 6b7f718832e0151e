"""Whatever answers in place of a hub, it is said in one line, in time, and little of it is kept."""

import http.server
import threading
import time

import pytest
from huggingface_hub.utils import close_session

from hub import client, lock
from lab.hub import Hub
from planner.declared import Model
from tests.planner import llama

MODEL = Model(repo="org/llama", revision="0" * 40, name="llama", context=4096)
INFO = f'{{"sha": "{"0" * 40}", "siblings": [{{"rfilename": "%s", "size": 9}}]}}'


class Answering(http.server.BaseHTTPRequestHandler):
    """Answers everything with what its server has."""

    def do_GET(self):
        self.server.answer(self)

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture
def lying():
    """Start a server that answers so; its address."""
    servers = []

    def start(answer):
        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answering))
        servers[-1].answer = answer
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def said(endpoint, place):
    with pytest.raises(lock.LockError) as raised:
        lock.ensure([(MODEL, "gpu")], place / "models.lock", endpoint=endpoint)
    (line,) = str(raised.value).splitlines()
    return line


@pytest.mark.parametrize(
    "body",
    [
        "<html>log in first</html>",
        "",
        "[]",
        '{"a": 1}',
        INFO.replace("9", "1" * 5000) % "config.json",
        INFO.replace("9", "-1") % "config.json",
        INFO % "../../../tmp/x.json",
        INFO % "/tmp/x.json",
        INFO % "model\\u0000.safetensors",
    ],
)
def test_what_is_no_answer_of_a_hub_is_said_so(body, lying, tmp_path):
    """A page to log in at, say, with status 200."""

    def answer(request):
        request.send_response(200)
        request.end_headers()
        request.wfile.write(body.encode())

    assert "does not answer as a model hub does" in said(lying(answer), tmp_path)


def test_a_hub_that_answers_of_another_commit_is_not_believed(lying, tmp_path):
    """Its files would be kept, and deployed, as those that were asked for."""

    def answer(request):
        request.send_response(200)
        request.end_headers()
        request.wfile.write((INFO % "config.json").replace("0" * 40, "1" * 40).encode())

    assert "answered of another commit, 111111111111" in said(lying(answer), tmp_path)


@pytest.mark.parametrize(
    "address",
    ["http://[bad", "http://host:notaport", "http://127.0.0.1:99999", "http://a..b", "localhost"],
)
def test_an_address_that_is_none_is_said_so(address, tmp_path):
    """As people mistype it."""
    assert f"{address} cannot be " in said(address, tmp_path)


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:9", "foo://host", "http://host:bad"])
def test_a_proxy_that_nothing_here_can_use_is_said_so(proxy, tmp_path, monkeypatch):
    """It is the environment's."""
    monkeypatch.setenv("HTTP_PROXY", proxy)
    close_session()
    assert "http://hub.invalid cannot be asked" in said("http://hub.invalid", tmp_path)
    close_session()


@pytest.mark.parametrize("token", ["hf_é", "hf_secret\nmore"])
def test_a_token_that_is_none_is_said_so_and_not_shown(token, lying, tmp_path):
    """Before anybody is asked."""
    with pytest.raises(lock.LockError, match="has what no token has") as raised:
        lock.ensure([(MODEL, "gpu")], tmp_path / "lock", endpoint=lying(None), token=token)
    assert token[:4] not in str(raised.value)


@pytest.mark.parametrize("what", ["body", "headers"])
def test_a_hub_that_dawdles_is_given_up_on_in_all(what, lying, tmp_path, monkeypatch):
    """It always sends a byte before the time without one is over."""
    monkeypatch.setattr(client, "TOTAL_SECONDS", 1.0)

    def answer(request):
        request.send_response(200)
        if what == "body":
            request.end_headers()
        request.flush_headers()
        for _ in range(100):
            request.wfile.write(b" ")
            time.sleep(0.1)

    start = time.monotonic()
    assert "took more than 1 s" in said(lying(answer), tmp_path)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("status", [200, 404, 500])
def test_an_answer_without_an_end_is_not_kept(status, lying, tmp_path):
    """As much as a list of files can be is read of it, and nothing of what comes with an error."""
    sent = []

    def answer(request):
        request.send_response(status)
        request.end_headers()
        sent.extend(request.wfile.write(b" " * 1_000_000) for _ in range(2000))

    said(lying(answer), tmp_path)
    assert sum(sent) < 2 * client.LISTING


def test_a_name_that_no_hub_has_is_said_so(lying, tmp_path):
    """Before anybody is asked."""
    model = Model(repo="a/b--c", revision="0" * 40, name="x", context=4096)
    with pytest.raises(lock.LockError, match="not the name of a repository"):
        lock.ensure([(model, "gpu")], tmp_path / "models.lock", endpoint=lying(None))


def test_an_address_may_end_in_a_slash(tmp_path):
    """As people write it."""
    with Hub(tmp_path / "hub") as hub:
        revision = hub.add_repo("org/llama", llama.write(tmp_path / "files"))
        model = MODEL.model_copy(update={"revision": revision})
        found = lock.ensure([(model, "gpu")], tmp_path / "models.lock", endpoint=f"{hub.endpoint}/")
        assert found.traced(model, "gpu")
        assert revision == client.head("org/llama", endpoint=f"{hub.endpoint}/")
