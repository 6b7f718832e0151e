"""What a check tells people and machines, and what it must tell nobody."""

from __future__ import annotations

import io
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from rich.console import Console

from manifest.findings import Finding
from manifest.judgement import Judgement
from manifest.metrics import Checked, metrics
from reports.fleet import Fleet, HostReport
from reports.junit import junit
from reports.machine import to_json
from reports.masking import MASK, masked
from reports.page import page
from reports.table import show
from reports.writing import write
from tests.drift.schemas import mistakes

SCHEMA = json.loads((Path(__file__).parents[2] / "docs/drift.schema.json").read_text())
SECRETS = [
    "hf_" + "a1B2" * 8,
    "sk-proj-" + "a1B2" * 8,
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl",
    "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk\n-----END OPENSSH PRIVATE KEY-----",
]
FINDINGS = (
    Finding(
        cause="changed by hand",
        kind="file",
        id="/etc/mlx-hosts/a<b>.json",
        attribute="sha256",
        expected="aa",
        found="bb",
    ),
    Finding(
        cause="unmanaged", kind="directory", id="/etc", attribute="entries", found=("\x1b[0m",)
    ),
)


def fleet(text: str = "temperature = 1\n") -> Fleet:
    return Fleet(
        inventory="inventories/gpu.py",
        time="2026-11-22T12:00:00+00:00",
        hosts=(
            HostReport(name="good", judgement=Judgement(checked=3)),
            HostReport(
                name="changed",
                judgement=Judgement(findings=FINDINGS, checked=3),
                texts={FINDINGS[0].id: ("temperature = 0\n", text)},
            ),
            HostReport(name="dark", judgement=Judgement(troubles=("cannot be connected to",))),
        ),
    )


def test_the_json_is_what_its_schema_says() -> None:
    """`docs/drift.schema.json` describes it, down to the last key."""
    for told in (fleet(), Fleet(inventory="x", trouble="no hosts")):
        document = json.loads(json.dumps(to_json(told)))
        assert mistakes(document, SCHEMA, SCHEMA) == []
    assert mistakes({**document, "more": 1}, SCHEMA, SCHEMA) == ["$: more is unknown"]


def test_a_check_of_nothing_tells_nothing() -> None:
    """No hosts is exit status 1, and so is one that is dark beside others that are good."""
    assert Fleet(inventory="x").exit_status == 1
    assert fleet().exit_status == 1
    assert Fleet(inventory="x", hosts=fleet().hosts[:2]).exit_status == 2
    assert Fleet(inventory="x", hosts=fleet().hosts[:1]).exit_status == 0


def test_junit_counts_drift_as_failures_and_the_unknown_as_errors() -> None:
    """A test server shows what failed and what erred; the XML is XML whatever was found."""
    suites = {one.get("name"): one for one in ET.fromstring(junit(fleet()))}
    counted = {name: (one.get("failures"), one.get("errors")) for name, one in suites.items()}
    assert counted == {"good": ("0", "0"), "changed": ("2", "0"), "dark": ("0", "1")}


def test_the_page_loads_nothing_and_escapes_what_it_shows() -> None:
    """One file; what a host's files are called runs nothing in a browser."""
    text = page(fleet("<script>alert(1)</script>\n"))
    assert "<script" not in text
    assert "a&lt;b&gt;.json" in text
    assert "http" not in text
    assert "+&lt;script&gt;" in text


def test_metrics_are_what_prometheus_reads() -> None:
    """Every sample has a type; verdicts are the exit statuses."""
    parser = pytest.importorskip("prometheus_client.parser")
    checks = [Checked(host.judgement, 1e9, host.name) for host in fleet().hosts]
    families = {one.name: one for one in parser.text_string_to_metric_families(metrics(checks))}
    status = {one.labels["host"]: one.value for one in families["mlx_drift_status"].samples}
    assert status == {"good": 0, "changed": 2, "dark": 1}


@pytest.mark.parametrize("secret", SECRETS)
def test_a_secret_put_into_a_file_by_hand_is_shown_nowhere(secret: str) -> None:
    """Every report of a host on which one lies about leaves it out."""
    told = fleet(f"key = 1\n{secret}\n")
    assert secret not in page(told)
    noted = Finding(cause="unmanaged", kind="file", id=f"/etc/{secret}", note=secret)
    host = HostReport(name="h", judgement=Judgement(findings=(noted,), troubles=(secret,)))
    bare = Fleet(inventory="x", hosts=(host,), time=told.time)
    for text in (page(bare), junit(bare), json.dumps(to_json(bare), ensure_ascii=False)):
        assert secret.splitlines()[-1] not in text
        assert MASK in text


@pytest.mark.parametrize("secret", SECRETS)
def test_a_secret_in_what_kept_a_check_from_being_made_is_shown_nowhere(secret: str) -> None:
    """An inventory that cannot be read may tell of one, in whatever way."""
    console = Console(file=io.StringIO(), record=True, width=400)
    told = Fleet(inventory="x", trouble=f"x: no such host: {secret}")
    show(told, console)
    for text in (page(told), junit(told), json.dumps(to_json(told)), console.export_text()):
        assert secret.splitlines()[-1] not in text


@pytest.mark.parametrize(
    "line",
    [
        "HF_TOKEN=swordfish99", '"api_key": "swordfish99"', "password: swordfish99",
        "https://ops:swordfish99@proxy.example.net/", "Authorization: Bearer swordfish99",
    ],
)  # fmt: skip
def test_what_a_name_says_is_secret_is_masked(line: str) -> None:
    """Whatever its form, what stands behind such a name is left out, and the name stays."""
    assert "swordfish99" not in masked(line)
    assert MASK in masked(line)


@pytest.mark.parametrize(
    "line",
    ["sha256 0f3a" * 8, '"max_tokens": 256,', "token=null", "/opt/mlx-hosts/runtimes/a08864"],
)
def test_what_is_no_secret_is_left_as_it_is(line: str) -> None:
    """Digests, paths and names are what people need to see."""
    assert masked(line) == line


@pytest.mark.parametrize("word", ["a", "a-", "token", "api_", "-hf_", "token ", "://a:b"])
def test_a_long_text_is_masked_at_once(word: str) -> None:
    """A host's file may be one word of 64 KiB; what stands behind it is masked all the same."""
    text = word * (65_536 // len(word))
    began = time.process_time()
    shown = masked(f"{text}\nmy-token: swordfish99\n")
    assert time.process_time() - began < 3
    assert "swordfish99" not in shown


@pytest.mark.parametrize(
    "text",
    [
        "-----BEGIN PRIVATE KEY-----\nb3\n-----END PRIVATE KEY-----token=swordfish99",
        "tokentokens-of-mine=swordfish99", "my-token\xe9-\xe9='swordfish99'",
        "a \xe9token: swordfish99", "token: Bearer swordfish99",
    ],
)  # fmt: skip
def test_a_name_is_found_wherever_in_a_word(text: str) -> None:
    """At its start or behind what was masked, twice, and beside letters of any language."""
    assert "swordfish99" not in masked(text)


@pytest.mark.parametrize("as_json", [True, False])
def test_a_name_that_is_not_utf_8_is_written_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, as_json: bool
) -> None:
    """Its bytes are told as `\\xff`, whatever takes the reports; another host's are written too."""
    entries = Finding(
        cause="unmanaged", kind="directory", id="/etc", attribute="entries", found=("b\udcff",)
    )
    noted = Finding(cause="unmanaged", kind="file", id="/etc/c\udcfe", note="\ud800")
    host = HostReport(name="h", judgement=Judgement(findings=(entries, noted), checked=3))
    told = replace(fleet(), hosts=(host, *fleet().hosts))
    printed = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(printed, encoding="utf-8"))
    page_path, junit_path = tmp_path / "page.html", tmp_path / "junit.xml"

    write(told, as_json=as_json, html_path=page_path, junit_path=junit_path)

    sys.stdout.flush()
    texts = [printed.getvalue().decode(), page_path.read_text(), junit_path.read_text()]
    if as_json:
        texts[0] = json.loads(texts[0])["hosts"][0]["findings"][0]["found"][0]
        assert texts[0] == r"b\xff"
    assert all(r"b\xff" in text for text in texts)


def test_a_check_of_no_host_leaves_the_metrics_as_they_were(tmp_path: Path) -> None:
    """An alert on the age of the last check needs its time; without series there is no alert."""
    path = tmp_path / "drift.prom"
    write(fleet(), metrics_path=path)
    before = path.read_text()
    write(Fleet(inventory="x", time=fleet().time, trouble="SyntaxError"), metrics_path=path)
    assert path.read_text() == before
    assert "mlx_drift_checked_timestamp_seconds{" in before


def test_a_report_that_cannot_be_written_keeps_no_other_from_it(tmp_path: Path) -> None:
    """What became of each is told: a directory may have gone, a disk be full."""
    gone, junit_path = tmp_path / "gone/page.html", tmp_path / "junit.xml"
    unwritten = write(fleet(), html_path=gone, junit_path=junit_path)
    assert unwritten == [f"{gone}: No such file or directory"]
    assert junit_path.exists()
