"""Bring a model's files to the host, verify every one against the hub's hashes, record them.

Runs on the host with the engine's Python, behind ``facts/tree_program.py`` and
``operations/seal_program.py`` on one standard input: a token stands in no process's arguments.
"""


def blob_hash(path, kind):
    """Hash as the hub does: plain SHA-256 for large files, git's blob id for the others."""
    if kind == "sha256":
        return sha256_of(path)
    digest = hashlib.sha1(f"blob {os.path.getsize(path)}\0".encode(), usedforsecurity=False)
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def damaged(folder, blobs):
    """List the files that are missing or not what their hashes say."""
    wrong = []
    for path, size, digest in blobs:
        kind, _, expected = digest.partition(":")
        file = f"{folder}/{path}"
        if (
            not os.path.isfile(file)
            or os.path.getsize(file) != size
            or blob_hash(file, kind) != expected
        ):
            wrong.append(path)
    return wrong


def fetch(repo, revision, snapshot, record, files, blobs, cache, endpoint, token):
    """Download what is missing, verify, record; or exit 1 and say what could not be had."""
    os.umask(0o022)
    if wrong := damaged(snapshot, blobs):
        for path in wrong:
            forget(f"{snapshot}/{path}")
        os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
        from huggingface_hub import snapshot_download

        snapshot_download(
            repo,
            revision=revision,
            allow_patterns=[glob_escape(path) for path, _, _ in blobs],
            cache_dir=cache,
            endpoint=endpoint,
            token=token or False,
        )
    if wrong := damaged(snapshot, blobs):
        sys.exit(f"{repo}@{revision}: not what the hub's hashes say: {', '.join(wrong)}")
    prune(snapshot, {path for path, _, _ in blobs})
    sweep(f"{os.path.dirname(os.path.dirname(snapshot))}/blobs")
    os.sync()
    write_record(record, {"files": files, "tree": seal(snapshot, follow=True)})


def forget(file):
    """Remove a damaged file: the client takes one that is there for a good one."""
    for path in (os.path.realpath(file), file):
        if os.path.lexists(path):
            os.unlink(path)


def prune(snapshot, wanted):
    """Remove what nobody declared from the snapshot: the engine reads whatever matches a glob."""
    for name, path, _, _ in list(walk(snapshot, follow=False)):
        if name not in wanted:
            os.unlink(path)


def sweep(folder):
    """Remove what downloads that died have left beside the files."""
    for name in os.listdir(folder):
        if name.endswith(".incomplete"):
            os.unlink(f"{folder}/{name}")


def glob_escape(path):
    return re.sub(r"([*?\[])", r"[\1]", path)


def record_directory(path, record, files, blobs):
    """Verify and record a directory that somebody else keeps; nothing in it is changed."""
    if wrong := damaged(path, blobs):
        sys.exit(f"{path}: not as models.lock says it is: {', '.join(wrong)}")
    write_record(record, {"files": files, "tree": seal(path, follow=True)})
