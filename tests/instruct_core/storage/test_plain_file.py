"""What lies in a file's place and is none is refused at once: a pipe has no writer, a device no end."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from instruct_core.errors import CorruptFileError
from instruct_core.storage.growing_file import GrowingFile
from instruct_core.storage.plain_file import bytes_of, open_plain, text_of

PLANTED: list[Callable[[Path], object]] = [
    os.mkfifo,
    Path.mkdir,
    lambda path: path.symlink_to("/dev/zero"),
]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("plant", PLANTED)
def test_what_is_no_plain_file_is_named_and_not_waited_for(
    plant: Callable[[Path], object], tmp_path: Path
) -> None:
    path = tmp_path / "progress-0000.json"
    plant(path)

    with pytest.raises(CorruptFileError, match=f"^{path} is no plain file"):
        bytes_of(path)


def test_plain_file_is_read_whole_and_made_where_it_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "job_ids"
    with pytest.raises(FileNotFoundError):
        text_of(path)
    with os.fdopen(open_plain(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "a") as file:
        file.write("12\nä\n")

    assert text_of(path) == "12\nä\n"


@pytest.mark.timeout(60)
def test_records_do_not_wait_for_the_reader_of_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "samples.jsonl")
    file = GrowingFile(tmp_path / "samples.jsonl", "samples")
    file.add(b"one\n")

    assert not file.write()
