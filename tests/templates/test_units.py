"""Every unit, in every variant that a host can be given, judged by systemd itself."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from jinja2 import UndefinedError

from templates import render

HERE = Path(__file__).parents[2] / "templates"
UNIT = "mlx-model@.service"
INSTANCE = "mlx-model@qwen3-30b.0.service"
RANK = "mlx-rank@qwen3-30b.0.1.service"
GPUS = ("GPU-5a3e7c1e-0000-0000-0000-000000000001", "GPU-5a3e7c1e-0000-0000-0000-000000000002")
VARIANTS: dict[str, dict[str, Any]] = {
    "cpu": {},
    "cpu, mounts": {"mounts": ("/srv/models", "/srv/other models", "/srv/100%", "/srv/R&D's <1>")},
    "gpu": {"gpu": True},
    "gpu, one of two ranks": {"gpu": True, "others": (RANK,)},
    "gpu, mounts": {"gpu": True, "mounts": ("/srv/models",)},
}


def verify(folder: Path, *units: str) -> str:
    """Give what systemd says of units in a folder; it exits with 0 for a key it does not know."""
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(folder / unit for unit in units)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    # The machine that the tests run on has units of its own to complain of.
    said = (done.stdout + done.stderr).splitlines()
    return "\n".join(line for line in said if "mlx-" in line or str(folder) in line)


needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="no systemd-analyze on this machine"
)


def write(
    folder: Path,
    *,
    gpu: bool = False,
    mounts: tuple = (),
    others: tuple = (),
) -> None:
    """Write a host's units as a deploy would."""
    python = sys.executable  # systemd looks for the program of each unit
    spaced = folder / "a python" / "python"
    spaced.parent.mkdir()
    spaced.symlink_to(python)
    served = SimpleNamespace(instance="qwen3-30b.0", stop_timeout_s=60, unit=INSTANCE)
    drop_ins = folder / f"{INSTANCE}.d"
    drop_ins.mkdir()
    limits = render("mlx-model-limits.conf", served=served, mounts=mounts)
    (drop_ins / "10-limits.conf").write_text(limits)
    (folder / INSTANCE).write_text(render(UNIT, guard_python=python))
    if others:
        group = render("mlx-group.conf", others=others, fabric_addresses=())
        (drop_ins / "30-group.conf").write_text(group)
        (folder / RANK).write_text(render(UNIT, guard_python=python))
    if gpu:
        (drop_ins / "20-gpu.conf").write_text(render("mlx-model-gpu.conf"))
        ready = render("mlx-gpu-ready.service", guard_python=python, gpu_uuids=GPUS)
        (folder / "mlx-gpu-ready.service").write_text(ready)
    service = render("mlx-drift.service", python=str(spaced), checker="/opt/mlx-hosts/check")
    (folder / "mlx-drift.service").write_text(service)
    (folder / "mlx-drift.timer").write_text(render("mlx-drift.timer"))


@needs_systemd
@pytest.mark.parametrize("name", VARIANTS)
def test_systemd_accepts_the_units_in_silence(tmp_path: Path, name: str) -> None:
    """Not a word of complaint about any unit of a host of this kind."""
    write(tmp_path, **VARIANTS[name])
    assert verify(tmp_path, *(path.name for path in tmp_path.glob("*.*") if path.is_file())) == ""


@needs_systemd
@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ("[Service]\nMemmoryMax=1\n", "Unknown key"),
        ("[Service]\nRestart=sometimes\n", "Failed to parse"),
        ("[Unit]\nRequiresMountsFor=srv\n", "not absolute"),
    ],
)
def test_systemd_would_complain(tmp_path: Path, wrong: str, complaint: str) -> None:
    """Silence means something: a wrong drop-in is not passed over."""
    write(tmp_path)
    (tmp_path / f"{INSTANCE}.d" / "90-wrong.conf").write_text(wrong)
    assert complaint in verify(tmp_path, INSTANCE)


@pytest.mark.parametrize("template", [path.stem for path in sorted(HERE.glob("*.j2"))])
def test_a_template_demands_every_name_it_uses(template: str) -> None:
    """A name that nobody passed is an error, never an empty word in a unit."""
    if "{{" not in (HERE / f"{template}.j2").read_text() + "{{" * ("%" in template):
        text = render(template)
        assert text.endswith("\n")
        return
    with pytest.raises(UndefinedError):
        render(template)


@pytest.mark.parametrize("name", VARIANTS)
def test_what_is_written_is_what_was_asked(tmp_path: Path, name: str) -> None:
    """Times, mounts and devices stand in the drop-ins of those that have them, and only there."""
    asked = VARIANTS[name]
    write(tmp_path, **asked)
    limits = (tmp_path / f"{INSTANCE}.d" / "10-limits.conf").read_text()
    for mount in asked.get("mounts", ()):
        assert f"RequiresMountsFor={mount}\n" in limits.replace('"', "").replace("%%", "%")
    assert "TimeoutStopSec=75\n" in limits
    assert (tmp_path / f"{INSTANCE}.d" / "20-gpu.conf").exists() == asked.get("gpu", False)


def test_what_needrestart_reads_is_perl() -> None:
    """needrestart reads its configuration as Perl, which must accept it."""
    if shutil.which("perl") is None:
        pytest.skip("no perl on this machine")
    program = f"my %nrconf; {render('needrestart.conf')}; print keys %{{$nrconf{{override_rc}}}}"
    done = subprocess.run(
        ["perl", "-we", program], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "mlx-" in done.stdout
