"""Changes that somebody thought of: each with what a check must say of it.

Beyond the generated ones: what only a running host shows, what hides, what two things together do.
"""

from __future__ import annotations

from tests.drift.proving import Change

UNIT = "mlx-model@nonsense.0.service"
CONFIG = "/etc/mlx-hosts/instances/nonsense.0.json"
SYSTEM = "/etc/systemd/system"
# The directories that are named by a digest, as shell words.
RUNTIME = f'$(sed -n \'s#.*"runtime": "\\(.*\\)".*#\\1/#p\' {CONFIG})'
GUARD = f"$(sed -n 's#^ExecStart=\\(.*\\)bin/python .*#\\1#p' {SYSTEM}/mlx-model@.service)"
SNAPSHOT = "$(ls -d /var/lib/mlx-hosts/hub/models--lab--tiny-llama/snapshots/*/ | head -1)"
STAMP = "/etc/mlx-hosts/stamp.json"


def _by_hand(id: str, script: str, finding: str, at: str, repair: str = "deploy") -> Change:  # noqa: A002
    return Change(id=id, script=script, finding=finding, at=at, repair=repair)


CATALOGUE = [
    # Units, as systemd sees them
    _by_hand(
        "a setting made with systemctl set-property",
        f"systemctl set-property {UNIT} CPUWeight=10",
        "unmanaged",
        f"unit:{UNIT}",
    ),
    _by_hand(
        "a setting made until the next boot",
        f"systemctl set-property --runtime {UNIT} Nice=3 2>/dev/null ||"
        f" systemctl set-property --runtime {UNIT} CPUWeight=20",
        "unmanaged",
        f"unit:{UNIT}",
    ),
    _by_hand(
        "a drop-in for every instance of the template",
        f"mkdir -p {SYSTEM}/mlx-model@.service.d;"
        f" printf '[Service]\\nRestart=no\\n' >{SYSTEM}/mlx-model@.service.d/override.conf;"
        " systemctl daemon-reload",
        "unmanaged",
        f"unit:{UNIT}",
    ),
    _by_hand(
        "a unit file edited, and systemd not told",
        f"echo '# by hand' >>{SYSTEM}/mlx-model@.service",
        "out of date",
        f"unit:{UNIT}",
    ),
    _by_hand(
        "a unit file linked to one kept elsewhere",
        f"cp {SYSTEM}/mlx-model@.service /root/; ln -sf /root/mlx-model@.service"
        f" {SYSTEM}/mlx-model@.service; systemctl daemon-reload",
        "changed by hand",
        f"file:{SYSTEM}/mlx-model@.service",
    ),
    _by_hand(
        "enablement taken away by removing the link",
        f"rm {SYSTEM}/multi-user.target.wants/{UNIT}; systemctl daemon-reload",
        "changed by hand",
        f"unit:{UNIT}",
    ),
    _by_hand(
        "the sandbox taken off in the unit file",
        f"sed -i s/PrivateNetwork=yes/PrivateNetwork=no/ {SYSTEM}/mlx-model@.service;"
        " systemctl daemon-reload",
        "changed by hand",
        f"file:{SYSTEM}/mlx-model@.service",
    ),
    # Processes
    _by_hand(
        "the guard killed, and started again by systemd",
        f"systemctl kill -s KILL --kill-whom=main {UNIT};"
        f" until systemctl is-active -q {UNIT} && [ $(systemctl show -P NRestarts {UNIT}) -gt 0 ];"
        " do sleep 0.2; done",
        "changed by hand",
        f"unit:{UNIT}",
    ),
    _by_hand(
        "stopped",
        f"systemctl stop {UNIT}",
        "changed by hand",
        f"unit:{UNIT}",
    ),
    _by_hand(
        "a configuration that cannot be read, and a restart: failed",
        f"echo broken >{CONFIG}; systemctl restart {UNIT} || :",
        "changed by hand",
        f"unit:{UNIT}",
    ),
    _by_hand(
        "another context length, and a restart",
        f'sed -i \'s/"context_tokens": [0-9]*/"context_tokens": 128/\' {CONFIG};'
        f" systemctl restart {UNIT}",
        "changed by hand",
        f"file:{CONFIG}",
    ),
    _by_hand(
        "a stranger's instance beside ours, with settings of its own",
        f"sed s/nonsense.0/stranger.0/g {CONFIG} >/etc/mlx-hosts/instances/stranger.0.json;"
        " systemctl start --no-block mlx-model@stranger.0.service; sleep 1",
        "unmanaged",
        "unit-set:mlx-model@*",
    ),
    _by_hand(
        "a stranger's instance enabled for the next boot",
        "systemctl enable --quiet mlx-model@stranger.1.service",
        "unmanaged",
        "unit-set:mlx-model@*",
    ),
    _by_hand(
        "a port opened in our user's name, on IPv6",
        "setsid setpriv --reuid mlx --clear-groups python3 -m http.server --bind ::1 8124"
        " >/dev/null 2>&1 </dev/null & until ss -Hltn sport = :8124 | grep -q .;"
        " do sleep 0.1; done",
        "unmanaged",
        "sockets:mlx",
    ),
    # Files of ours, and files among them
    _by_hand("a file left in our directory", "echo x >/etc/mlx-hosts/notes.txt", "unmanaged", "directory:/etc/mlx-hosts"),
    _by_hand("a directory left beside ours", "mkdir /opt/mlx-hosts/old", "unmanaged", "directory:/opt/mlx-hosts"),
    _by_hand(
        "an environment that nobody declares",
        f"cp -r {GUARD}lib /opt/mlx-hosts/runtimes/mine",
        "unmanaged",
        "shelf:/opt/mlx-hosts/runtimes",
    ),
    _by_hand(
        "the checker made to find nothing",
        "sed -i 's/^def main() -> int:/def main() -> int:\\n    return 0/'"
        " /opt/mlx-hosts/check/__main__.py",
        "changed by hand",
        "file:/opt/mlx-hosts/check/__main__.py",
    ),
    _by_hand(
        "an exception added on the host",
        "echo '[{\"resource\": \"*\"}]' >/etc/mlx-hosts/tolerated.json",
        "changed by hand",
        "file:/etc/mlx-hosts/tolerated.json",
    ),
    _by_hand(
        "the timer of the host's own check stopped",
        "systemctl stop mlx-drift.timer",
        "changed by hand",
        "unit:mlx-drift.timer",
    ),
    _by_hand(
        "a file with its size and time kept",
        f't=$(stat -c %y {CONFIG}); sed -i s/256/255/ {CONFIG}; touch -d "$t" {CONFIG}',
        "changed by hand",
        f"file:{CONFIG}",
    ),
    _by_hand("needrestart's exception gone", "rm /etc/needrestart/conf.d/mlx-hosts.conf", "missing", "file:/etc/needrestart"),
    _by_hand("our user made a member of sudo", "gpasswd -a mlx sudo >/dev/null", "changed by hand", "user:mlx"),
    # Environments and weights
    _by_hand(
        "a package installed into the engine's environment",
        f"d=$(ls -d {RUNTIME}lib/python*/site-packages); mkdir $d/other-1.0.dist-info;"
        " echo 'Name: other' >$d/other-1.0.dist-info/METADATA",
        "changed by hand",
        "runtime:/opt/mlx-hosts/runtimes/",
    ),
    _by_hand(
        "code that every start would run",
        f"echo 'import os' >$(ls -d {GUARD}lib/python*/site-packages)/mine.pth",
        "changed by hand",
        "runtime:/opt/mlx-hosts/guards/",
    ),
    _by_hand(
        "another interpreter under the engine",
        f"ln -sfn /bin/true {RUNTIME}bin/python",
        "changed by hand",
        "runtime:/opt/mlx-hosts/runtimes/",
    ),
    _by_hand(
        "the guard's code patched in place",
        f"f=$(ls {GUARD}lib/python*/site-packages/guard/desk.py); echo '# quick fix' >>$f",
        "changed by hand",
        "runtime:/opt/mlx-hosts/guards/",
    ),
    _by_hand(
        "another file of weights beside ours",
        f"cp {SNAPSHOT}config.json {SNAPSHOT}model-extra.safetensors",
        "changed by hand",
        "weights:",
    ),
    _by_hand(
        "a link of the snapshot led to another blob",
        f"cd {SNAPSHOT}; ln -sfn $(readlink tokenizer.json) config.json",
        "changed by hand",
        "weights:",
    ),
    _by_hand(
        "a bit of the weights flipped, size and time kept",
        f"f=$(readlink -f {SNAPSHOT}model.safetensors); t=$(stat -c %y $f);"
        " printf '\\377' | dd of=$f bs=1 seek=100000 conv=notrunc status=none; touch -d \"$t\" $f",
        "changed by hand",
        "weights:",
    ),
    # The stamp
    _by_hand("the stamp removed", f"rm {STAMP}", "missing", f"file:{STAMP}"),
    _by_hand("the stamp cut short", f"truncate -s 1000 {STAMP}", "changed by hand", f"file:{STAMP}"),
    _by_hand("the stamp readable by root alone", f"chmod 0600 {STAMP}", "changed by hand", f"file:{STAMP}"),
    _by_hand(
        "a run that died after it said what it was to do",
        f"python3 -c \"import json; p='{STAMP}'; s=json.load(open(p)); s['intended']=s['applied'];"
        " json.dump(s, open(p,'w'))\"",
        "run not finished",
        f"file:{STAMP}",
    ),
    # The host
    _by_hand("packages that wait for a reboot", "touch /run/reboot-required", "out of date", "reboot:host", "reboot"),
    _by_hand("certificates of the system removed", "dpkg --force-depends -r ca-certificates >/dev/null 2>&1", "missing", "package:ca-certificates"),
]  # fmt: skip
