#!/usr/bin/env python3
"""SIMULATED nvidia-smi: answers from a profile, in the formats of the real one. No GPU is involved.

Installed on lab hosts as /usr/bin/nvidia-smi. Knows the table, -L, --version, --query-gpu,
--query-compute-apps, -i and -pm; anything else is refused with a word that the real one never says.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

HOME = Path(os.environ.get("SIMULATED_NVIDIA", "/etc/simulated-nvidia"))
# One a line, "GPU-index pid MiB name": processes that a test says are on a GPU.
PROCESSES = Path(os.environ.get("SIMULATED_NVIDIA_PROCESSES", "/run/simulated-nvidia/processes"))
HANG_SECONDS = 600
WIDE = 24  # the middle column since branch 550

Profile = dict[str, Any]
Gpu = dict[str, Any]


def main(arguments: list[str]) -> int:
    """Answer as the profile says; give the exit status."""
    profile: Profile = json.loads((HOME / "profile.json").read_text())
    if profile["hangs"]:
        hang()
    if profile["refuses"]:
        print(*profile["refuses"]["says"], sep="\n")
        return int(profile["refuses"]["status"])
    options, values = parse(arguments)
    for asked, answer in ANSWERS.items():
        if asked in options or asked in values:
            return int(answer(profile, values))
    if options or values.keys() - {"-i"}:
        print(f"SIMULATED nvidia-smi: not simulated: {' '.join(arguments)}", file=sys.stderr)
        return 64
    return table(profile)


def persist(profile: Profile, values: dict[str, str]) -> int:
    """Say what `-pm 1` does."""
    for gpu in chosen(profile, values):
        print(f"Enabled persistence mode for GPU {gpu['pci']}.")
    print("All done.")
    return 0


def listed(profile: Profile, values: dict[str, str]) -> int:
    """Print what `-L` does."""
    for gpu in chosen(profile, values):
        print(f"GPU {gpu['index']}: {gpu['name']} (UUID: {gpu['uuid']})")
    return 0


def query_gpus(profile: Profile, values: dict[str, str]) -> int:
    """Print what `--query-gpu` does."""
    return query(profile, values, "--query-gpu", GPU_FIELDS, chosen(profile, values))


def query_processes(profile: Profile, values: dict[str, str]) -> int:
    """Print what `--query-compute-apps` does."""
    rows = [p for p in processes(profile) if p["gpu"] in chosen(profile, values)]
    return query(profile, values, "--query-compute-apps", PROCESS_FIELDS, rows)


def parse(arguments: list[str]) -> tuple[set[str], dict[str, str]]:
    """Tell bare options from those with a value (`-i 0`, `--id=0`, `--query-gpu=…`)."""
    options: set[str] = set()
    values: dict[str, str] = {}
    rest = iter(arguments)
    for argument in rest:
        if argument.startswith("--") and "=" in argument:
            name, _, value = argument.partition("=")
            values["-i" if name == "--id" else name] = value
        elif argument in ("-i", "-pm"):
            values[argument] = next(rest, "")
        elif argument == "--list-gpus":
            options.add("-L")
        else:
            options.add(argument)
    return options, values


def chosen(profile: Profile, values: dict[str, str]) -> list[Gpu]:
    """Give the GPUs that `-i` names by index, UUID or bus id; all of them without it."""
    gpus: list[Gpu] = [{"index": i, **gpu} for i, gpu in enumerate(profile["gpus"])]
    if "-i" not in values:
        return gpus
    asked = values["-i"].split(",")
    return [g for g in gpus if {str(g["index"]), g["uuid"], g["pci"]} & set(asked)]


def processes(profile: Profile) -> list[dict[str, Any]]:
    """Give what the profile and the test say is running on the GPUs."""
    gpus = chosen(profile, {})
    found = [{**p, "gpu": gpus[p["gpu"]]} for p in profile["processes"]]
    if PROCESSES.exists():
        for line in PROCESSES.read_text().splitlines():
            index, pid, mib, name = line.split(None, 3)
            found.append(
                {"gpu": gpus[int(index)], "pid": int(pid), "memory_mib": int(mib), "name": name}
            )
    return found


def used(gpu: Gpu, profile: Profile) -> int:
    """Give the MiB in use on a GPU: its own idle use and its processes'."""
    return int(gpu["used_mib"]) + sum(
        int(p["memory_mib"]) for p in processes(profile) if p["gpu"]["index"] == gpu["index"]
    )


GPU_FIELDS = {
    "index": ("", lambda g, _: g["index"]),
    "count": ("", lambda _, p: len(p["gpus"])),
    "uuid": ("", lambda g, _: g["uuid"]),
    "gpu_uuid": ("", lambda g, _: g["uuid"]),
    "name": ("", lambda g, _: g["name"]),
    "gpu_name": ("", lambda g, _: g["name"]),
    "pci.bus_id": ("", lambda g, _: g["pci"].upper()),
    "gpu_bus_id": ("", lambda g, _: g["pci"].upper()),
    "serial": ("", lambda _g, _p: "[N/A]"),
    "driver_version": ("", lambda _, p: p["driver"]),
    "compute_cap": ("", lambda g, _: g["compute_capability"]),
    "compute_mode": ("", lambda g, _: g["compute_mode"]),
    "mig.mode.current": ("", lambda g, _: g["mig"]),
    "ecc.mode.current": ("", lambda g, _: g["ecc"]),
    "persistence_mode": ("", lambda _g, _p: "Enabled"),
    "pstate": ("", lambda _g, _p: "P8"),
    "memory.total": ("MiB", lambda g, _: g["memory_mib"]),
    "memory.used": ("MiB", used),
    "memory.free": ("MiB", lambda g, p: g["memory_mib"] - used(g, p)),
    "power.limit": ("W", lambda g, _: f"{g['power_limit']:.2f}"),
    "power.draw": ("W", lambda _g, _p: "18.02"),
    "temperature.gpu": ("", lambda _g, _p: 34),
    "utilization.gpu": ("%", lambda _g, _p: 0),
}
PROCESS_FIELDS = {
    "pid": ("", lambda p, _: p["pid"]),
    "process_name": ("", lambda p, _: p["name"]),
    "name": ("", lambda p, _: p["name"]),
    "gpu_uuid": ("", lambda p, _: p["gpu"]["uuid"]),
    "gpu_bus_id": ("", lambda p, _: p["gpu"]["pci"].upper()),
    "gpu_name": ("", lambda p, _: p["gpu"]["name"]),
    "used_memory": ("MiB", lambda p, _: p["memory_mib"]),
    "used_gpu_memory": ("MiB", lambda p, _: p["memory_mib"]),
}


def query(
    profile: Profile,
    values: dict[str, str],
    option: str,
    known: dict[str, Any],
    rows: list[dict[str, Any]],
) -> int:
    """Print rows as comma-separated values; give the exit status."""
    form = values.get("--format", "").split(",")
    if "csv" not in form:
        print("\"--format=\" switch is missing. Please run 'nvidia-smi -h' for help.")
        return 2
    fields = [field.strip() for field in values[option].split(",")]
    for field in fields:
        if field not in known:
            print(f'Field "{field}" is not a valid field to query.\n')
            return 2
    if "noheader" not in form:
        print(", ".join(f + f" [{known[f][0]}]" * bool(known[f][0]) for f in fields))
    status = 0
    for row in rows:
        if row.get("lost"):
            print(lost(row))
            print(", ".join("[Unknown Error]" for _ in fields))
            status = 15
            continue
        cells = []
        for field in fields:
            unit, value = known[field]
            with_unit = unit and "nounits" not in form
            cells.append(f"{value(row, profile)}" + f" {unit}" * bool(with_unit))
        print(", ".join(cells))
    return status


def lost(gpu: Gpu) -> str:
    """Give the words for a GPU that has fallen off the bus."""
    bus = gpu["pci"].removeprefix("0000").upper()
    return (
        f"Unable to determine the device handle for GPU{bus}: GPU is lost.  "
        "Reboot the system to recover this GPU"
    )


def versions(profile: Profile, _: dict[str, str]) -> int:
    """Print what `--version` does."""
    print(f"NVIDIA-SMI version  : {profile['driver']}")
    print(f"NVML version        : {'.'.join(profile['driver'].split('.')[:2])}")
    print(f"DRIVER version      : {profile['driver']}")
    print(f"CUDA Version        : {profile['cuda']}")
    return 0


def table(profile: Profile) -> int:
    """Print the table that everybody knows, in the widths of the driver's branch."""
    gpus = chosen(profile, {})
    for gpu in gpus:
        if gpu.get("lost"):
            print(lost(gpu))
            return 15
    branch = int(profile["driver"].split(".")[0])
    middle = WIDE if branch >= 550 else 22  # noqa: PLR2004
    width = 41 + middle + 22 + 2
    rule = f"+{'-' * 41}+{'-' * middle}+{'-' * 22}+"
    print(time.strftime("%a %b %e %H:%M:%S %Y       "))
    print(f"+{'-' * width}+")
    print(f"| NVIDIA-SMI {profile['driver']:22} {header(profile, branch)}".ljust(width + 1) + "|")
    print(rule if branch >= 580 else "|" + rule[1:])  # noqa: PLR2004
    print(f"| GPU  Name                 Persistence-M | {'Bus-Id':{middle - 9}} Disp.A |"
          " Volatile Uncorr. ECC |")  # fmt: skip
    print(f"| Fan  Temp   Perf          Pwr:Usage/Cap | {'Memory-Usage':>{middle - 2}} |"
          " GPU-Util  Compute M. |")  # fmt: skip
    print(f"|{'':41}|{'':{middle}}|{'MIG M.':>21} |")
    print(f"|{'=' * 41}+{'=' * middle}+{'=' * 22}|")
    for gpu in gpus:
        print(*rows(gpu, profile, middle), rule, sep="\n")
    print(f"\n+{'-' * width}+")
    print("| Processes:".ljust(width + 1) + "|")
    wide = " " * (14 if middle == WIDE else 8)
    print(f"|  GPU   GI   CI{wide}PID   Type   Process name".ljust(width - 10) + "GPU Memory |")
    print("|        ID   ID".ljust(width - 10) + "Usage      |")
    print(f"|{'=' * width}|")
    running = processes(profile)
    for p in running:
        pid = f"{p['pid']:{len(wide) + 2}}"
        left = f"|  {p['gpu']['index']:3}   N/A  N/A{pid}      C   {p['name']}"
        print(left.ljust(width - 10) + f"{p['memory_mib']:7}MiB |")
    if not running:
        print("|  No running processes found".ljust(width + 1) + "|")
    print(f"+{'-' * width}+")
    return 0


def header(profile: Profile, branch: int) -> str:
    """Give the versions as the branch words them."""
    if branch >= 610:  # noqa: PLR2004 - the branch that renamed them
        return f"KMD Version: {profile['driver']:13} CUDA UMD Version: {profile['cuda']}"
    width = 14 if branch >= 550 else 12  # noqa: PLR2004
    return f"Driver Version: {profile['driver']:{width}} CUDA Version: {profile['cuda']}"


def rows(gpu: Gpu, profile: Profile, middle: int) -> list[str]:
    """Give the three lines of one GPU."""
    name = gpu["name"] if len(gpu["name"]) <= 27 else gpu["name"][:24] + "..."  # noqa: PLR2004
    memory = f"{used(gpu, profile)}MiB / {gpu['memory_mib']:6}MiB"
    power = f"18W / {gpu['power_limit']:4.0f}W"
    ecc = {"Enabled": "0", "Disabled": "Off"}.get(gpu["ecc"], "N/A")
    mode = {"Exclusive_Process": "E. Process"}.get(gpu["compute_mode"], gpu["compute_mode"])
    mig = "N/A" if gpu["mig"] == "[N/A]" else gpu["mig"]
    bus = gpu["pci"].upper()
    return [
        f"| {gpu['index']:3}  {name:30} On  | {bus:>{middle - 6}} Off | {ecc:>20} |",
        f"| N/A   34C    P8  {power:>22} | {memory:>{middle - 2}} | {'0%':>7}   {mode:>10} |",
        f"|{'':41}|{'':{middle}}| {mig:>20} |",
    ]


def hang() -> NoReturn:
    """Never come back, deaf to every signal that can be ignored, a child holding the output."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    if os.fork() == 0:
        os.setsid()  # out of reach of whoever kills the process group
    time.sleep(HANG_SECONDS)
    sys.exit(1)


ANSWERS = {
    "-pm": persist,
    "-L": listed,
    "--version": versions,
    "--query-gpu": query_gpus,
    "--query-compute-apps": query_processes,
}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
