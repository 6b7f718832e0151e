"""What happens on every host and is nobody's drift: a check that names one of these cries wolf."""

from __future__ import annotations

HUB = "/var/lib/mlx-hosts/hub"
CACHE = "/var/cache/mlx-hosts/nonsense.0"
RUNTIME = "$(ls -d /opt/mlx-hosts/runtimes/*/ | head -1)"
MODULE = f"$(find {RUNTIME} -name '*.py' -size +1k -type f | sort | head -1)"
BLOB = f"$(readlink -f $(find {HUB} -name model.safetensors | head -1))"
UNIT = "mlx-model@nonsense.0.service"
READY = (
    'until grep -q \'"state": "ready"\' /run/mlx-hosts/nonsense.0/state.json; do sleep 0.2; done'
)

# Each leaves a host on which everything that we declare is as declared.
HARMLESS = {
    # Time passing, logs, caches
    "the journal rotated": "journalctl --rotate --quiet; journalctl --vacuum-size=1M --quiet",
    "a log written and rotated": "seq 9999 >/var/log/app.log; mv /var/log/app.log /var/log/app.log.1",
    "the kernel caches of a model filled": f"head -c 2000000 /dev/urandom >{CACHE}/kernels.bin",
    "our files read by a backup": f"find /opt/mlx-hosts /etc/mlx-hosts {HUB} -type f -exec cat {{}} + >/dev/null",
    "our files' access times old": "find /etc/mlx-hosts -type f -exec touch -a -d 2001-01-01 {} +",
    "a file of an environment written anew with the same bytes": f"f={MODULE}; cp -p $f /root/same; cp -p /root/same $f",
    "a file of an environment touched": f"touch {MODULE}",
    "weights linked to by a backup": f"ln -f {BLOB} {HUB}/../backup.link; rm {HUB}/../backup.link",
    "a mode changed and changed back": f"f={MODULE}; m=$(stat -c %a $f); chmod 600 $f; chmod $m $f",
    "an owner changed and changed back": "chown nobody /etc/mlx-hosts/instances; chown root /etc/mlx-hosts/instances",
    "a temporary file come and gone in our directory": "touch /etc/mlx-hosts/.swp; rm /etc/mlx-hosts/.swp",
    # Packages and their lists
    "package lists fetched anew": "touch /var/lib/apt/lists/partial; touch /var/lib/apt/periodic/update-success-stamp 2>/dev/null || :",
    "somebody's package installed": "d=$(mktemp -d); mkdir $d/DEBIAN; printf 'Package: other\\nVersion: 1\\nArchitecture: all\\nMaintainer: x <x@y.z>\\nDescription: x\\n' >$d/DEBIAN/control; dpkg-deb -b $d /tmp/o.deb >/dev/null; dpkg -i /tmp/o.deb >/dev/null",
    "somebody's package removed": "dpkg -P other >/dev/null 2>&1 || :",
    "a package of somebody's held": "apt-mark hold sudo >/dev/null; apt-mark unhold sudo >/dev/null",
    "Python's own caches made": "python3 -c 'import json, compileall; compileall.compile_dir(\"/usr/lib/python3/dist-packages\", quiet=2)'",
    # Other people's files
    "files in /tmp, /root, /srv, /home": "for d in /tmp /root /srv /home/ops; do echo x >$d/note; done",
    "another program below /opt": "mkdir -p /opt/other/bin; echo x >/opt/other/bin/x",
    "another program's settings": "mkdir -p /etc/other; echo x >/etc/other/other.conf",
    "another model in the hub's cache": f"mkdir -p {HUB}/models--other--one/blobs; echo x >{HUB}/models--other--one/blobs/x",
    "locks of hub tools": f"mkdir -p {HUB}/.locks/models--other--one; touch {HUB}/.locks/models--other--one/x.lock",
    "another cache beside ours": "mkdir -p /var/cache/other; echo x >/var/cache/other/x",
    "needrestart told of something else": "echo '# x' >/etc/needrestart/conf.d/other.conf",
    # Other people's units
    "somebody's unit made and started": "printf '[Service]\\nExecStart=sleep 999\\n' >/etc/systemd/system/other.service; systemctl daemon-reload; systemctl start other.service",
    "somebody's unit edited": "echo '# x' >>/etc/systemd/system/other.service",
    "somebody's unit failed": "systemd-run --quiet --unit=broken false; sleep 0.2; systemctl stop other.service",
    "somebody's drop-in": "mkdir -p /etc/systemd/system/ssh.service.d; printf '[Service]\\nNice=1\\n' >/etc/systemd/system/ssh.service.d/x.conf; systemctl daemon-reload",
    "a drop-in of the distribution for all services": "mkdir -p /usr/lib/systemd/system/service.d; printf '[Service]\\nOOMScoreAdjust=0\\n' >/usr/lib/systemd/system/service.d/10-vendor.conf; systemctl daemon-reload",
    "systemd told to read its files again": "systemctl daemon-reload",
    "systemd replaced while it runs": "systemctl daemon-reexec",
    "failures of others forgotten": "systemctl reset-failed",
    # The model at work
    "our model restarted by hand": f"systemctl restart {UNIT}; {READY}",
    "our model asked": "for i in 1 2 3; do curl -s --unix-socket /run/mlx-hosts/nonsense.0/api.sock http://x/v1/models >/dev/null 2>&1 || :; done",
    "our model's metrics read": "python3 -c \"import socket; s=socket.socket(socket.AF_UNIX); s.connect('/run/mlx-hosts/nonsense.0/api.sock'); s.send(b'GET /metrics HTTP/1.0\\r\\n\\r\\n'); s.recv(9999)\"",
    "the host's own check run": "systemctl start mlx-drift.service",
    # The host
    "a user and a group made": "useradd --system other; groupadd --force others",
    "a password changed": "echo ops:x9x8x7 | chpasswd",
    "a key of an operator added": "mkdir -p /home/ops/.ssh; echo 'ssh-ed25519 AAAA x' >>/home/ops/.ssh/authorized_keys",
    "somebody listening": "setsid python3 -m http.server --bind 127.0.0.1 8200 >/dev/null 2>&1 </dev/null & sleep 0.5",
    "another user's program listening": "setsid setpriv --reuid ops --clear-groups python3 -m http.server --bind 127.0.0.1 8201 >/dev/null 2>&1 </dev/null & sleep 0.5",
    "a job of cron's": "mkdir -p /etc/cron.d; echo '* * * * * root true' >/etc/cron.d/x",
    "another time zone": "ln -sfn /usr/share/zoneinfo/Asia/Tokyo /etc/localtime",
    "another locale": "echo LANG=de_DE.UTF-8 >/etc/default/locale",
    "the message of the day": "echo hello >/etc/motd",
    "a kernel parameter": "sysctl -qw net.core.somaxconn=4321 || :",
    "a name added to /etc/hosts": "echo '192.0.2.1 other' >>/etc/hosts",
    "failed logins": "for i in 1 2 3; do su nobody -s /bin/false -c x || :; done",
    "processes that eat time": "timeout 2 sh -c 'while :; do :; done' & sleep 0.3",
}  # fmt: skip
