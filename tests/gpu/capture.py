"""Write down what a machine with a real NVIDIA GPU says and does, as evidence for the docs.

    python tests/gpu/capture.py --runtime RUNTIME [--model DIRECTORY] >docs/evidence/MACHINE.json

``RUNTIME`` is a virtual environment made from ``locks/cuda13.txt`` (or ``cuda12.txt``), on whose
Python the parts that use MLX run; ``DIRECTORY`` is a checkpoint that fits the card. Prints one JSON
object: every output that preflight reads and what it makes of it, NVML's answers, what a process
that does nothing holds, the first kernel and the first token, a model's peak, and what happens when
the memory runs out. Changes no setting of a GPU. UUIDs, serial numbers and host names are replaced.
A part that fails is written down with its error; the exit status is 1 then.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(__file__).parent / "programs"
sys.path.insert(0, str(ROOT))

from facts.bare_host import BareHost  # noqa: E402
from facts.nvidia_smi import FIELDS  # noqa: E402
from planner import verdict  # noqa: E402
from planner.declared import Host  # noqa: E402

COMMANDS = [
    "nvidia-smi",
    "nvidia-smi -L",
    "nvidia-smi --version",
    "nvidia-smi -q",
    f"nvidia-smi --query-gpu={FIELDS} --format=csv",
    "nvidia-smi --query-gpu=nonsense --format=csv",
    "nvidia-smi --query-compute-apps=gpu_uuid,pid,used_gpu_memory,process_name --format=csv",
    "cat /proc/driver/nvidia/version",
    "cat /sys/module/nvidia/version",
    "ls -l /dev/nvidia* /dev/nvidia-caps",
    "ls -d /sys/module/nvidia* /sys/module/nouveau",
]
LIMIT_SECONDS = 60
# Whoever this machine is, is nobody's business.
IDENTITIES = re.compile(
    r"(?P<what>Serial Number|GPU PDI|Cluster ?UUID|Hostname|GUID)(?P<gap>\s*:\s*)(?!N/A)(?P<v>\S+)"
)


def main() -> int:
    """Capture what the arguments ask for; give the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runtime", type=Path, help="virtual environment with MLX")
    parser.add_argument("--model", type=Path, help="checkpoint to generate from")
    parser.add_argument("--context", type=int, default=2048, help="tokens of the longest prompt")
    parser.add_argument("--without", action="append", default=[], help="a part to leave out")
    given = parser.parse_args()
    parts: dict[str, Any] = {
        "machine": machine,
        "commands": lambda: {command: run(["sh", "-c", command]) for command in COMMANDS},
        "preflight": preflight,
    }
    if given.runtime:
        python = str(given.runtime / "bin" / "python")
        for name in ("nvml", "idle", "kernel", "exhaustion"):
            parts[name] = lambda name=name: program(python, name)
        if given.model:
            arguments = (str(given.model), str(given.context))
            parts["generation"] = lambda: program(python, "generation", *arguments)
    evidence: dict[str, Any] = {}
    for name, part in parts.items():
        if name not in given.without:
            print(f"capturing {name}", file=sys.stderr)
            evidence[name] = attempt(part)
    print(anonymous(json.dumps(evidence, indent=1)))
    return int(any("error" in part for part in evidence.values() if isinstance(part, dict)))


def attempt(part: Any) -> Any:
    """Run one part; what goes wrong in it is evidence too."""
    try:
        return part()
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        return {"error": f"{type(error).__name__}: {error}"}


def run(argv: list[str], *, limit: float = LIMIT_SECONDS) -> dict[str, Any]:
    """Run a command; give what it printed, how it ended (`None`: it did not) and seconds."""
    began = time.monotonic()
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        output, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        return {
            "status": None,
            "seconds": round(time.monotonic() - began, 3),
            "output": text(output),
        }
    seconds = round(time.monotonic() - began, 3)
    return {"status": process.returncode, "seconds": seconds, "output": text(output)}


def text(output: bytes) -> list[str]:
    """Give lines, whatever the bytes are."""
    return output.decode("utf-8", "backslashreplace").splitlines()


def machine() -> dict[str, Any]:
    """Say what this is, but not who."""
    return {
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "os": Path("/etc/os-release").read_text(encoding="utf-8").splitlines()[:3],
        "captured": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def preflight() -> dict[str, Any]:
    """Ask as preflight does, and judge."""
    fact = BareHost()
    answer = run(["sh", "-c", fact.command(paths=["/opt", "/var"]).get_raw_value()])
    found = fact.process(answer["output"])
    host = Host(name="captured")
    refusals = [str(refusal) for refusal in verdict.judge(found, host)]
    bound = None if refusals else verdict.bind(found, host).to_json()
    return {**answer, "refusals": refusals, "bound": bound}


def program(python: str, name: str, *arguments: str) -> dict[str, Any]:
    """Run one of ``programs/`` on the runtime's Python; the last line it prints is its answer."""
    done = run([python, "-I", str(PROGRAMS / f"{name}.py"), *arguments], limit=600)
    *before, last = done.pop("output") or [""]
    try:
        return {**done, "answer": json.loads(last), "output": before[-20:]}
    except json.JSONDecodeError:
        # It died before it could answer: how, is what we want to know.
        return {**done, "answer": None, "output": [*before, last][-40:]}


def anonymous(evidence: str) -> str:
    """Put made-up identities in the place of real ones, the same for the same."""
    uuids = dict.fromkeys(
        re.findall(r"(?:GPU|MIG)-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", evidence)
    )
    for number, uuid in enumerate(uuids):
        evidence = evidence.replace(uuid, f"{uuid[:3]}-00000000-0000-4000-8000-{number:012x}")
    if platform.node():
        evidence = re.sub(rf"\b{re.escape(platform.node())}\b", "HOST", evidence)
    return IDENTITIES.sub(lambda found: f"{found['what']}{found['gap']}(replaced)", evidence)


if __name__ == "__main__":
    sys.exit(main())
