"""A header is believed only as far as the file it stands in bears it out."""

import json
import struct

import pytest

from hub.checkpoint import CheckpointError, header_length, read_header, write_hollow

GOOD = {
    "a": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]},
    "b": {"dtype": "U8", "shape": [4], "data_offsets": [12, 16]},
}


def read(header, *, data=16):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return read_header(raw, file="model.safetensors", size=8 + len(raw) + data)


def test_a_good_header_comes_back_as_it_was_without_its_metadata():
    """Tensors and nothing else."""
    assert GOOD == read({**GOOD, "__metadata__": {"format": "mlx"}})


def test_a_hollow_file_is_as_long_as_the_real_one_and_takes_no_space(tmp_path):
    """The data is a hole."""
    path = tmp_path / "model.safetensors"
    big = {"w": {"dtype": "F32", "shape": [2**20, 2**10], "data_offsets": [0, 2**32]}}

    write_hollow(path, big)

    assert path.stat().st_size > 2**32
    assert path.stat().st_blocks * 512 < 2**16
    with path.open("rb") as file:
        length = header_length(file.read(8), file=path.name, size=path.stat().st_size)
        assert big == read_header(file.read(length), file=path.name, size=path.stat().st_size)


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "not a JSON object"),
        ({"a": 1}, "no dtype, shape and data_offsets"),
        (b'{"a": ' + b"1" * 5000 + b"}", "not JSON"),
        ({"a": {**GOOD["a"], "dtype": "X9"}}, "unknown type"),
        ({"a": {**GOOD["a"], "dtype": ["BF16"]}}, "unknown type"),
        ({"a": {**GOOD["a"], "shape": [10**400]}}, "integers"),
        ({"a": {**GOOD["a"], "shape": [2**62] * 65}}, "integers"),
        ({"a": {**GOOD["a"], "data_offsets": 5}}, "integers"),
        ({"a": {**GOOD["a"], "data_offsets": [0, 13]}}, "its offsets say 13"),
        ({"a": {**GOOD["a"], "data_offsets": [0, -12]}}, "integers"),
        ({"a": {**GOOD["a"], "shape": [2, 3.0]}}, "integers"),
        ({"a": {**GOOD["a"], "shape": [True, 6]}}, "integers"),
        ({"a": {**GOOD["a"], "data_offsets": [8, 20]}}, "lies at bytes 8 to 20"),
        ({**GOOD, "b": {**GOOD["b"], "data_offsets": [8, 12]}}, "starts at byte 8"),
        ({"a": GOOD["a"]}, "end at byte 12 of 16"),
        ({"a": {**GOOD["a"], "shape": [2**62, 2**62]}}, "its offsets say 12"),
    ],
)
def test_a_header_that_lies_is_refused_by_name(header, says):
    """The message names the file and what is wrong with it."""
    with pytest.raises(CheckpointError, match=r"model\.safetensors") as raised:
        read(header)
    assert says in str(raised.value)


@pytest.mark.parametrize(
    ("start", "size", "says"),
    [
        (b"\x01\x02", 2, "too short"),
        (struct.pack("<Q", 2**40), 2**50, "the format allows"),
        (struct.pack("<Q", 1000), 500, "truncated"),
    ],
)
def test_a_length_that_cannot_be_is_refused(start, size, says):
    """Before a byte of the header is fetched."""
    with pytest.raises(CheckpointError, match=says):
        header_length(start, file="model.safetensors", size=size)
