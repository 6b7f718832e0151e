"""Models' files: fetched at a commit, verified, recorded."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from pyinfra.api import StringCommand, operation
from pyinfra.api.hiddenvalue import HiddenValue

from facts.probe import TREE
from manifest import layout
from manifest.weights import Snapshot
from operations.convergence import Command, Commands, Comparison, script
from operations.records import SEAL, converge_tree

FETCH = (Path(__file__).parent / "fetch_program.py").read_text(encoding="utf-8")


@operation()
def fetched(
    snapshot: Snapshot, runtime: str, endpoint: str, token: HiddenValue, site: Mapping[str, str]
) -> Commands:
    """
    Ensure that a model's files are on the host, each as its hub says.

    + snapshot: the model at a commit, or a directory that is there already
    + runtime: path of an environment that has ``huggingface_hub``
    + endpoint: the hub's address
    + token: the hub's token, "" for none
    + site: variables that downloads need here
    """
    commands = partial(
        changes, snapshot=snapshot, runtime=runtime, endpoint=endpoint, token=token, site=site
    )
    yield from converge_tree("weights", snapshot.resource(), commands)


def changes(
    compared: Comparison,
    snapshot: Snapshot,
    runtime: str,
    endpoint: str,
    token: HiddenValue,
    site: Mapping[str, str],
) -> Iterator[Command]:
    """Yield the download, its verification and the record: one program, resumable."""
    del compared
    yield script('rm -f -- "$1"', snapshot.record)
    blobs = [[blob.path, blob.size, blob.hash] for blob in snapshot.blobs]
    if snapshot.repo is None:
        arguments = json.dumps([snapshot.path, snapshot.record, snapshot.files, blobs])
        call = f"record_directory(*json.loads({arguments!r}))"
    else:
        source = [snapshot.repo, snapshot.revision, snapshot.path, snapshot.record]
        arguments = json.dumps(
            [*source, snapshot.files, blobs, layout.HUB, endpoint, token.unmask()]
        )
        call = f"os.environ.update({dict(site)!r})\nfetch(*json.loads({arguments!r}))"
    program = f"{TREE}\n{SEAL}\n{FETCH}\n{call}\n"
    yield StringCommand(f"{runtime}/bin/python -I -", _stdin=program)
