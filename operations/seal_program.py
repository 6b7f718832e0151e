"""Seal an environment: check it file by file against its packages' own records, then record it.

Runs on the host behind ``facts/tree_program.py`` (whose ``seal`` it uses) on one standard input.
"""

import base64
import csv
import email
import json
import re
import sys


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def site_packages(path):
    (found,) = [
        f"{path}/lib/{name}/site-packages"
        for name in os.listdir(f"{path}/lib")
        if name.startswith("python")
    ]
    return found


def inspect(site, own):
    """List the installed packages, and every file that is not as its package's record says."""
    packages, wrong, known = [], [], set(own)
    for name in sorted(os.listdir(site)):
        if not name.endswith(".dist-info"):
            continue
        with open(f"{site}/{name}/METADATA", encoding="utf-8", errors="replace") as file:
            headers = email.message_from_string(file.read().split("\n\n", 1)[0])
        packages.append(f"{canonical(headers['Name'])}=={headers['Version']}")
        with open(f"{site}/{name}/RECORD", encoding="utf-8", newline="") as file:
            for entry, digest, _ in csv.reader(file):
                path = os.path.normpath(f"{site}/{entry}")
                known.add(os.path.relpath(path, site))
                algorithm, _, expected = digest.partition("=")
                if not os.path.lexists(path):
                    wrong.append(f"missing: {entry} of {name}")
                elif algorithm and hash_of(path, algorithm) != expected:
                    wrong.append(f"altered: {entry} of {name}")
    for entry, _, _, _ in walk(site, follow=False):
        if (
            entry not in known
            and "__pycache__" not in entry
            and not entry.startswith("_virtualenv")
        ):
            wrong.append(f"of no package: {entry}")
    return sorted(packages), wrong


def hash_of(path, algorithm):
    digest = hashlib.new(algorithm)
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return base64.urlsafe_b64encode(digest.digest()).decode().rstrip("=")


def write_record(path, record):
    new = f"{path}.new"
    with open(new, "w", encoding="utf-8") as file:
        json.dump(record, file, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)
    folder = os.open(os.path.dirname(path), os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def renew(path, record, follow):
    """Give a record the times that its files have now, where all else is as it says."""
    with open(record, encoding="utf-8") as file:
        known = json.load(file)
    tree = {}
    for name, at, target, status in walk(path, follow=follow):
        was = known["tree"].get(name)
        if was is None:
            return
        if changed(at, target, status, was, deep=False, until=None) not in (None, "times"):
            return
        # The times are those from before it was read: what is written meanwhile is found later.
        tree[name] = was if status is None else [target, *times(status), *was[4:]]
    if tree.keys() == known["tree"].keys():
        write_record(record, {**known, "tree": tree})


def closed(path):
    """List the directories that other users cannot enter."""
    return [
        os.path.relpath(folder, path)
        for folder, _, _ in os.walk(path)
        if os.stat(folder).st_mode & 0o055 != 0o055
    ]


def seal_runtime(path, record, expected, own):
    """Write the record of an environment, or exit 1 and say what is not as its lock says."""
    packages, wrong = inspect(site_packages(path), own)
    wrong += [f"closed to other users: {folder}" for folder in closed(path)]
    text = json.dumps(packages, separators=(",", ":"), ensure_ascii=False)
    contents = hashlib.sha256(text.encode()).hexdigest()
    if contents != expected:
        wrong.append(f"packages: expected other ones than {', '.join(packages)}")
    if wrong:
        sys.exit("\n".join(["runtime: not as locked:", *wrong[:20]]))
    os.sync()
    write_record(record, {"packages": contents, "tree": seal(path, follow=False)})
