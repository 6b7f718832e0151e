"""What brings a host back: the command for each finding."""

from __future__ import annotations

import shlex

from manifest.findings import Finding

_GPU_SETTINGS = {
    "mig": "-mig 0",
    "compute_mode": "-c DEFAULT",
    "ecc": "-e {flag}",
    "power_limit_watts": "-pl {expected:g}",
}


def repair(finding: Finding, *, inventory: str, host: str) -> str:
    """Give the command, or what a person is to look at where there is none."""
    if finding.kind == "reboot":
        return f"ssh {shlex.quote(host)} sudo systemctl reboot"
    if finding.kind == "gpu" and finding.attribute in _GPU_SETTINGS:
        flag = 1 if finding.expected == "Enabled" else 0
        expected = finding.expected if isinstance(finding.expected, float) else 0.0
        setting = _GPU_SETTINGS[finding.attribute].format(flag=flag, expected=expected)
        return f"ssh {shlex.quote(host)} sudo nvidia-smi -i {finding.id} {setting}"
    if finding.kind in {"gpu", "gpu-set"} and finding.cause != "not rolled out":
        return f"ssh {shlex.quote(host)} 'sudo dmesg | grep -i xid; nvidia-smi -q'"
    return f"pyinfra {shlex.quote(inventory)} deploy.py --limit {shlex.quote(host)}"
