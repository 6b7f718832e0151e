"""The program that looks at a host: sent, run and answered in one round trip.

Standard library only, Python 3.9 and up: it is fed to ``python3 -`` on the host, behind
``facts/tree_program.py``. It reads and changes nothing. The question is JSON, ``{"resources":
[...], "deep": bool}``, whose resources are expected ones; the answer is ``{"version", "resources",
"stamp", "boot", "problems"}`` with what is there in their place, a resource that is not there left
out.

With ``"stamp": true`` it looks besides at all that the host's own stamp names, so that whoever asks
need not know it; with ``"ask": true`` it has every model say a word.
"""

import fcntl
import glob
import grp
import json
import os
import pwd
import re
import socket
import stat
import subprocess
import sys
import time

VERSION = 1
STAMP = "/etc/mlx-hosts/stamp.json"
RECORDS = "/opt/mlx-hosts/records"
OURS = ("/opt/mlx-hosts/", "/var/lib/mlx-hosts/")
LOCK = "/run/mlx-hosts-deploy.lock"
ANSWER_SECONDS = 60  # for one token
LONGEST_TEXT = 64 * 1024  # bytes of a file that is shown with its difference
SHOWN = 10  # changed files named in an answer; a venv replaced as a whole has 20,000 of them
# What tells one resource from others of its kind (manifest/resources.py), but for "path".
KEYS = {
    **dict.fromkeys(("directory", "file", "runtime", "shelf", "weights"), "path"),
    **dict.fromkeys(("user", "package", "unit", "instance", "driver", "reboot", "gpu-set"), "name"),
    "hold": "pattern",
    "unit-set": "pattern",
    "sockets": "user",
    "gpu": "uuid",
}


def run(*command, timeout=20, fails=False):
    """Give what a command says; raises OSError where it fails, unless that is an answer, too."""
    environment = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=timeout,
        env=environment,
        check=False,
    )
    if done.returncode in (124, 137):  # of timeout(1): an answer cut short is none
        raise TimeoutError(f"{' '.join(command)}: no answer")
    if done.returncode and not fails:
        words = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise OSError(f"{command[0]}: exit status {done.returncode}: {words}")
    return done.stdout.decode("utf-8", "replace")


def name_of(lookup, number):
    try:
        return lookup(number)[0]
    except KeyError:
        return str(number)


def ownership(status):
    return {
        "mode": f"{stat.S_IMODE(status.st_mode):04o}",
        "owner": name_of(pwd.getpwuid, status.st_uid),
        "group": name_of(grp.getgrgid, status.st_gid),
    }


def number(text):
    """Read a figure of nvidia-smi's; None for its ``[N/A]``."""
    try:
        return float(text) if "." in text else int(text)
    except ValueError:
        return None


def what(path, status):
    """Say what stands in the place of a file or a directory."""
    if stat.S_ISLNK(status.st_mode):
        return f"a link to {os.readlink(path)}"
    kinds = {stat.S_IFDIR: "a directory", stat.S_IFREG: "a file", stat.S_IFIFO: "a pipe"}
    return kinds.get(stat.S_IFMT(status.st_mode), "something else")


def lstat(path):
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


class Probe:
    """One look: what several resources need is asked of the host once."""

    def __init__(self, question):
        self.expected = question["resources"]
        self.deep = question.get("deep", False)
        self.ask = question.get("ask", False)
        seconds = question.get("seconds")
        self.until = None if seconds is None else time.monotonic() + seconds
        self.texts = {}
        self.problems = []
        self.cache = {}
        self.stamp = self.read_text(STAMP)
        if question.get("stamp"):
            self.expected = [*self.stamped(), *self.expected]

    def stamped(self):
        """List what the stamp says was put here: applied, or intended by a run that died."""
        try:
            stamp = json.loads(self.stamp or "{}")
            named = [*(stamp.get("applied") or []), *(stamp.get("intended") or [])]
            # The later of two with one address says where its record is.
            return list({(one["kind"], one[KEYS[one["kind"]]]): one for one in named}.values())
        except (ValueError, KeyError, TypeError, AttributeError):
            return []  # torn, or of another version: whoever asked gets its text, and judges that

    def once(self, name, read):
        if name not in self.cache:
            try:
                self.cache[name] = read(), None
            except Exception as error:  # noqa: BLE001 - as true for whoever asks next
                self.cache[name] = None, error
        value, error = self.cache[name]
        if error is not None:
            raise error
        return value

    def answer(self):
        found = []
        for expected in self.expected:
            try:
                attributes = getattr(self, "read_" + expected["kind"].replace("-", "_"))(expected)
            except Exception as error:  # noqa: BLE001 - one unreadable thing must not hide the rest
                self.problems.append(f"{expected['kind']}: {expected}: {error!r}")
                continue
            if attributes is not None:
                found.append({"kind": expected["kind"], **attributes})
        return {
            "version": VERSION,
            "resources": found,
            "stamp": self.stamp,
            "boot": self.read_text("/proc/sys/kernel/random/boot_id"),
            "deploying": self.deploying(),
            "texts": self.texts,
            "problems": self.problems,
        }

    @staticmethod
    def read_text(path):
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                return file.read()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None

    def deploying(self):
        """Give the holder of the deploy lock; None where none is under way, or was meanwhile."""
        if self.read_text(STAMP) != self.stamp:
            return self.read_text(LOCK) or "somebody"
        try:
            with open(LOCK, encoding="utf-8", errors="replace") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return Probe.read_text(LOCK) or "somebody"
        except OSError:
            pass
        return None

    @staticmethod
    def read_reboot(expected):
        # Debian's and Ubuntu's packages touch this file when only a reboot brings them into use.
        return {"name": expected["name"], "pending": os.path.exists("/run/reboot-required")}

    # -- base

    @staticmethod
    def read_user(expected):
        try:
            entry = pwd.getpwnam(expected["name"])
        except KeyError:
            return None
        groups = sorted(group.gr_name for group in grp.getgrall() if entry.pw_name in group.gr_mem)
        return {
            "name": entry.pw_name,
            "home": entry.pw_dir,
            "shell": entry.pw_shell,
            "groups": groups,
        }

    def packages(self):
        # As apt takes names: `NAME:ARCH` of another architecture than the host's, and of one that
        # may be installed for several. Such a package can be there twice, and be held once.
        rows = run("dpkg-query", "-W", "-f", "${db:Status-Abbrev}\t${binary:Package}\n")
        return [line.split("\t") for line in rows.splitlines() if line.count("\t") == 1]

    def read_package(self, expected):
        for status, name in self.once("packages", self.packages):
            if name.partition(":")[0] == expected["name"] and status[1:2] == "i":
                return {"name": expected["name"], "installed": True}
        return None

    def read_hold(self, expected):
        pattern = re.compile(expected["pattern"])
        unheld = [
            name
            for status, name in self.once("packages", self.packages)
            if status[1:2] == "i"
            and status[:1] != "h"
            and pattern.fullmatch(name.partition(":")[0])
        ]
        return {"pattern": expected["pattern"], "unheld": sorted(set(unheld))}

    @staticmethod
    def read_directory(expected):
        status = lstat(expected["path"])
        if status is None:
            return None
        if not stat.S_ISDIR(status.st_mode):
            return {"path": expected["path"], "instead": what(expected["path"], status)}
        answer = {"path": expected["path"], "instead": "", **ownership(status)}
        if "entries" in expected:
            answer["entries"] = sorted(os.listdir(expected["path"]))
        return answer

    def read_file(self, expected):
        path = expected["path"]
        status = lstat(path)
        if status is None:
            return None
        if not stat.S_ISREG(status.st_mode):
            return {"path": path, "instead": what(path, status)}
        answer = {"path": path, "instead": "", "sha256": sha256_of(path), **ownership(status)}
        if expected.get("sha256") not in (None, answer["sha256"]):
            self.tell(path, expected, status)
        return answer

    def tell(self, path, expected, status):
        """Give the text of a file that differs, where anybody on the host may read it anyway."""
        open_to_all = status.st_mode & stat.S_IROTH and int(expected.get("mode", "0"), 8) & 0o004
        if open_to_all and status.st_size <= LONGEST_TEXT:
            self.texts[path] = self.read_text(path)

    # -- trees of files, sealed by a record

    def read_runtime(self, expected):
        return self.sealed(expected, "packages", follow=False)

    def read_weights(self, expected):
        return self.sealed(expected, "files", follow=True)

    @staticmethod
    def read_shelf(expected):
        path, shelf = expected["path"], os.path.basename(expected["path"])
        if not os.path.isdir(path):
            return None
        others = sorted(set(os.listdir(path)) - set(expected["current"]))
        records = {name: lstat(f"{RECORDS}/{shelf}-{name}.json") for name in others}
        # The last one that was whole is kept: the way back from a bad upgrade takes no download.
        whole = [name for name in others if records[name] is not None]
        kept = sorted(whole, key=lambda name: records[name].st_mtime_ns)[-1:]
        return {
            "path": path,
            "current": expected["current"],
            "surplus": [name for name in others if name not in kept],
        }

    def sealed(self, expected, contents, follow):
        record = expected.get("record")
        text = self.read_text(record) if record else None
        # An environment is built in its place; a model's directory may well be a link.
        elsewhere = not follow and os.path.islink(expected["path"])
        if text is None or elsewhere or not os.path.isdir(expected["path"]):
            return None
        known = json.loads(text)
        found = list(changes(expected["path"], known["tree"], follow, self.deep, self.until))
        changed = [one for one in found if not one.startswith("times: ")]
        return {
            "path": expected["path"],
            "record": record,
            contents: known[contents],
            "changed": changed[:SHOWN],
            "retimed": len(changed) < len(found),
        }

    # -- systemd

    def units(self):
        names = [item["name"] for item in self.expected if item["kind"] == "unit"]
        keys = (
            "Id,LoadState,ActiveState,SubState,Job,NRestarts,UnitFileState,FragmentPath,"
            "DropInPaths,NeedDaemonReload"
        )
        blocks = run("systemctl", "show", f"--property={keys}", "--", *names).split("\n\n")
        units = [dict(line.split("=", 1) for line in b.splitlines() if "=" in line) for b in blocks]
        # An alias answers with another Id: the order of the question tells which is which.
        return dict(zip(names, units))

    def read_unit(self, expected):
        unit = self.once("units", self.units).get(expected["name"])
        if not unit or unit["LoadState"] == "not-found":
            return None
        return {
            "name": expected["name"],
            "enabled": unit["UnitFileState"],
            "active": self.activity(unit),
            "restarts": int(unit.get("NRestarts") or 0),
            "fragment": unit["FragmentPath"],
            # A distribution may ship drop-ins for every service; they are not ours to judge.
            "drop_ins": sorted(
                p for p in unit["DropInPaths"].split() if p.startswith(("/etc/", "/run/"))
            ),
            "stale": unit["NeedDaemonReload"] == "yes",
        }

    @staticmethod
    def activity(unit):
        """ActiveState, but ``starting`` of one on its way up for the first time, or in the queue.

        A host that has just booted is as declared while its models load; one that fails and is
        started again and again is not.
        """
        state, first = unit["ActiveState"], unit.get("NRestarts") in (None, "", "0")
        if state == "activating" and first and not unit["SubState"].startswith("auto-restart"):
            return "starting"
        return "starting" if state == "inactive" and unit.get("Job") else state

    @staticmethod
    def read_unit_set(expected):
        listing = run(
            "systemctl", "list-units", "--all", "--plain", "--no-legend", expected["pattern"]
        )
        # Enabled but not started yet: the next boot would.
        wanted = glob.glob(f"/etc/systemd/system/*.wants/{expected['pattern']}")
        names = {line.split()[0] for line in listing.splitlines() if line.strip()}
        names |= {os.path.basename(path) for path in wanted}
        return {
            "pattern": expected["pattern"],
            "names": sorted(name for name in names if name.endswith((".service", ".timer"))),
        }

    def read_instance(self, expected):
        run_dir = f"/run/mlx-hosts/{expected['name']}"
        text, inputs = self.read_text(f"{run_dir}/state.json"), self.read_text(f"{run_dir}/inputs")
        if text is None or inputs is None:
            return None
        state = json.loads(text)
        processes = [state.get("pid"), state.get("engine_pid")]
        answer = {
            "name": expected["name"],
            "inputs": inputs.strip(),
            "gpus": state.get("gpu_uuids"),
            "planned_bytes": state.get("planned_bytes"),
            "state": state["state"],
            "deleted": any(self.runs_deleted(pid) for pid in processes if pid),
        }
        if self.ask:
            answer["answers"] = self.says_a_word(f"{run_dir}/api.sock", state["model"])
        return answer

    def says_a_word(self, path, model):
        """Have a model generate one token, as a client would."""
        from http import client  # brings much that nobody else here needs

        body = json.dumps({"model": model, "prompt": "One", "max_tokens": 1}).encode()
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(ANSWER_SECONDS)
                connection.connect(path)
                http = client.HTTPConnection("localhost")
                http.sock = connection
                http.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
                answer = http.getresponse()
                choices = json.loads(answer.read())["choices"] if answer.status == 200 else []
                return bool(choices)
        except (OSError, ValueError, KeyError, client.HTTPException):
            return False

    def runs_deleted(self, pid):
        maps = self.read_text(f"/proc/{pid}/maps") or ""
        paths = (line.split(None, 5)[-1] for line in maps.splitlines())
        return any(p.startswith(OURS) and p.endswith(" (deleted)") for p in paths)

    # -- network

    def read_sockets(self, expected):
        try:
            uid = pwd.getpwnam(expected["user"]).pw_uid
        except KeyError:
            return None
        fabric = expected.get("fabric")
        spared = socket.inet_aton(fabric)[::-1].hex().upper() if fabric else ""
        ports = set()
        for table in ("/proc/net/tcp", "/proc/net/tcp6"):
            for line in (self.read_text(table) or "").splitlines()[1:]:
                fields = line.split()
                address, _, port = fields[1].rpartition(":")
                if fields[3] == "0A" and int(fields[7]) == uid and address != spared:
                    ports.add(int(port, 16))
        return {"user": expected["user"], "fabric": fabric, "ports": sorted(ports)}

    # -- GPUs

    def gpus(self):
        keys = (
            "uuid,name,pci.bus_id,memory.total,compute_mode,mig.mode.current,ecc.mode.current,"
            "power.limit,driver_version"
        )
        query = ["nvidia-smi", f"--query-gpu={keys}", "--format=csv,noheader,nounits"]
        # nvidia-smi can hang in the kernel: killed by a process that is not waiting for its pipe.
        # With eight cards and no persistence daemon it takes seconds; preflight waits as long.
        # It fails where there is no card, or no driver that answers.
        rows = run("timeout", "-k", "1", "20", *query, timeout=25, fails=True).splitlines()
        return [
            dict(zip(keys.split(","), row.split(", ")))
            for row in rows
            if row.count(", ") == keys.count(",")
        ]

    def read_gpu(self, expected):
        for gpu in self.once("gpus", self.gpus):
            if gpu["uuid"] == expected["uuid"]:
                return {
                    "uuid": gpu["uuid"],
                    "name": gpu["name"],
                    "pci": gpu["pci.bus_id"].lower(),  # as facts/nvidia_smi.py has it
                    "memory_mib": number(gpu["memory.total"]),
                    "compute_mode": gpu["compute_mode"],
                    "mig": "Enabled" if gpu["mig.mode.current"] == "Enabled" else "Disabled",
                    "ecc": None
                    if gpu["ecc.mode.current"].startswith("[")
                    else gpu["ecc.mode.current"],
                    "power_limit_watts": number(gpu["power.limit"]),
                }
        return None

    def read_gpu_set(self, expected):
        uuids = sorted(gpu["uuid"] for gpu in self.once("gpus", self.gpus))
        return {"name": expected["name"], "uuids": uuids}

    def read_driver(self, expected):
        loaded = re.search(
            r"Kernel Module.*?\s(\d+\.\d+(?:\.\d+)?)\s",
            self.read_text("/proc/driver/nvidia/version") or "",
        )
        gpus = self.once("gpus", self.gpus)
        if not loaded and not gpus:
            return None
        return {
            "name": expected["name"],
            "module": loaded.group(1) if loaded else None,
            "library": gpus[0]["driver_version"] if gpus else None,
        }


def main(question):
    json.dump(Probe(question).answer(), sys.stdout)
