"""From what is typed after --source to files: names, globs, compressed files, and what is refused."""

from __future__ import annotations

import bz2
import errno
import gzip
import lzma
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import fsspec
import pytest

from instruct_core.data import sources, unpacking
from instruct_core.data.records import read_records
from instruct_core.data.sources import resolve_files, resolve_source
from instruct_core.errors import ConfigError, MissingError
from instruct_core.storage.store import Store
from tests.conftest import HANGS_SECONDS, REPO, environment, write_rows

PACKERS = [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)]


def test_glob_takes_files_in_sorted_order(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl", "c.csv"):
        write_rows(tmp_path / name, 1)

    source = resolve_source(f"{tmp_path}/*.jsonl", Store(tmp_path / "out"))

    assert [Path(file).name for file in source.files] == ["a.jsonl", "b.jsonl"]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*.jsonl", ["a.jsonl"]),
        ("*/*.jsonl", ["d.jsonl"]),
        (".?*.jsonl", ["._a.jsonl"]),
        (".cache/*.jsonl", ["b.jsonl"]),
    ],
)
def test_glob_leaves_out_what_is_hidden_and_not_typed_so(
    tmp_path: Path, pattern: str, names: list[str]
) -> None:
    for name in ("a.jsonl", "._a.jsonl", ".cache/b.jsonl", "c/d.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_rows(tmp_path / name, 1)

    source = resolve_source(f"{tmp_path}/{pattern}", Store(tmp_path / "out"))

    assert [Path(file).name for file in source.files] == names


@pytest.mark.parametrize("name", ["missing.jsonl", "no/such/file.csv", "nothing-*.jsonl", "name"])
def test_source_that_is_not_there_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(MissingError, match="is not there: no file or dataset"):
        resolve_source(name, Store(tmp_path))


def test_dataset_that_cannot_be_downloaded_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="cannot be had as a Hugging Face dataset") as caught:
        resolve_source("nobody/nothing", Store(tmp_path))

    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_hub_that_does_not_answer_is_asked_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
    command = [sys.executable, str(REPO / "launch/preprocess.py"), "--source=nobody/nothing"]

    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, encoding="utf-8", check=False, timeout=HANGS_SECONDS,
        env=environment() | {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": ""},
    )  # fmt: skip

    assert done.returncode == 2
    assert f"{address} does not answer, and it is not in the cache" in done.stderr
    assert "Retry" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_folder_is_its_own_files_with_rows_in_the_order_of_their_names(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    (folder / "more").mkdir(parents=True)
    for name in ("b.csv", "a.jsonl", "more/c.jsonl", ".d.jsonl", "_SUCCESS", "README.md", "x/"):
        (folder / name).parent.mkdir(exist_ok=True)
        if not name.endswith("/"):
            write_rows(folder / name, 1)
    (folder / "c.json.gz").write_bytes(gzip.compress((folder / "a.jsonl").read_bytes()))
    (folder / "dataset_info.json").write_text("{}")

    source = resolve_source(f"{folder}/", Store(tmp_path / "out"))

    assert [Path(file).name.rpartition("-")[2] for file in source.files] == [
        "a.jsonl", "b.csv", "c.json"
    ]  # fmt: skip
    assert source.left == ["README.md", "dataset_info.json"]
    assert resolve_files(str(folder), Store(tmp_path / "out")).files == source.files


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["train-00000-of-00001.parquet", "test-00000-of-00001.parquet"], "train, test"),
        (["Testing.csv", "gsm8k_dev.jsonl", "more.jsonl"], "validation, test"),
        (["train_test.jsonl", "train-1.jsonl", "latest.jsonl", "contest.jsonl"], ""),
    ],
)
def test_folder_with_several_splits_is_not_learnt_as_a_whole(
    tmp_path: Path, names: list[str], splits: str
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for name in names:
        (folder / name).write_text("{}\n")

    if not splits:
        assert len(resolve_source(str(folder), Store(tmp_path / "out")).files) == len(names)
        return
    with pytest.raises(
        ConfigError, match=rf"several splits \({splits}\).*meant: '{folder}/\*\w+\*'"
    ):
        resolve_source(str(folder), Store(tmp_path / "out"))
    assert resolve_source(f"{folder}/*", Store(tmp_path / "out")).files
    assert resolve_files(str(folder), Store(tmp_path / "out")).files, "to be answered all may be"


@pytest.mark.parametrize("typed", ["rows.jsonl", "ro*.jsonl", "."])
def test_pipe_is_refused_and_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: str
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("rows.jsonl")

    with pytest.raises(ConfigError, match=r"rows\.jsonl is no file but a pipe or a device"):
        resolve_source(typed, Store(tmp_path / "out"))


def test_glob_that_matches_what_is_no_file_is_refused_by_its_name(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.jsonl", 1)
    (tmp_path / "b.jsonl").mkdir()
    with pytest.raises(ConfigError, match=r"/b\.jsonl is no file but a folder"):
        resolve_source(f"{tmp_path}/*.jsonl", Store(tmp_path / "out"))

    (tmp_path / "b.jsonl").rmdir()
    (tmp_path / "b.jsonl").symlink_to("nowhere")
    with pytest.raises(MissingError, match=r"/b\.jsonl is a link to what is not there"):
        resolve_source(f"{tmp_path}/*.jsonl", Store(tmp_path / "out"))

    (tmp_path / "b.jsonl").unlink()
    (tmp_path / "b.jsonl").symlink_to("a.jsonl")
    assert len(resolve_source(f"{tmp_path}/*.jsonl", Store(tmp_path / "out")).files) == 2


@pytest.mark.parametrize("name", ["memory://closed", "memory://closed/*.jsonl"])
def test_place_that_does_not_say_what_is_in_it_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("Unable to locate credentials")  # as s3fs does, without OSError

    fs = fsspec.filesystem("memory")
    fs.pipe("/closed/a.jsonl", b"{}")
    monkeypatch.setattr(type(fs), "ls", refuse)
    monkeypatch.setattr(type(fs), "find", refuse)

    with pytest.raises(
        ConfigError, match=r"Source memory://closed.* cannot be read: Unable to locate"
    ):
        resolve_source(name, Store(tmp_path))


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        ([], "is a folder without rows: no file in it ends in .jsonl, "),
        (["a.txt", "sub/b.jsonl"], r"Give another, or a folder in it \(sub\)."),
        (["data-00000.arrow", "state.json"], r"""load_from_disk\(".*"\).to_parquet\("""),
        (["dataset_dict.json", "train/data-00000.arrow"], r"""\)\["train"\].to_parquet\("""),
        (["manifest.json", "plan.json"], "is a shard set. Give the rows that it was made from"),
    ],
)
def test_folder_without_rows_is_refused(tmp_path: Path, names: list[str], problem: str) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")

    with pytest.raises(ConfigError, match=problem):
        resolve_source(str(tmp_path), Store(tmp_path))


@pytest.mark.parametrize("name", ["data[1].jsonl", "what?.jsonl", "all*.jsonl"])
def test_file_whose_name_looks_like_a_glob_is_a_file(tmp_path: Path, name: str) -> None:
    for other in (name, "data1.jsonl", "whatx.jsonl", "all.jsonl"):
        write_rows(tmp_path / other, 1)

    source = resolve_source(f"{tmp_path}/{name}", Store(tmp_path / "out"))

    assert source.files == [f"{tmp_path}/{name}"]
    assert len(list(read_records(source.files[0]))) == 1


def test_object_whose_name_looks_like_a_glob_is_an_object(tmp_path: Path) -> None:
    fsspec.filesystem("memory").pipe("/bucket/data[1].jsonl", b"{}\n")

    source = resolve_source("memory://bucket/data[1].jsonl", Store(tmp_path))

    assert [record.value for record in read_records(source.files[0])] == [{}]


@pytest.mark.parametrize(("ending", "compress"), PACKERS)
def test_compressed_file_is_unpacked_once(tmp_path: Path, ending: str, compress: Any) -> None:
    content = write_rows(tmp_path / "rows.jsonl", 20).read_bytes()
    packed = tmp_path / f"rows.jsonl.{ending}"
    packed.write_bytes(compress(content[:100]) + compress(content[100:]) + bytes(8))
    out = Store(tmp_path / "out")

    [file] = resolve_source(str(packed), out).files
    inode = Path(file).stat().st_ino
    again = resolve_files(str(packed), out).files

    assert Path(file).read_bytes() == content
    assert again == [file]
    assert Path(file).stat().st_ino == inode, "the copy that is there is taken"


def test_compressed_file_that_has_changed_is_unpacked_anew(tmp_path: Path) -> None:
    packed, out = tmp_path / "rows.csv.gz", Store(tmp_path / "out")
    packed.write_bytes(gzip.compress(b"a\n1\n"))
    [old] = resolve_source(str(packed), out).files
    packed.write_bytes(gzip.compress(b"a\n1\n2\n"))

    [new] = resolve_source(str(packed), out).files

    assert new != old
    assert Path(new).read_bytes() == b"a\n1\n2\n"


@pytest.mark.parametrize(("ending", "compress"), PACKERS)
@pytest.mark.parametrize("damage", ["other", "cut off", "more behind"])
def test_damaged_compressed_file_is_refused_and_leaves_nothing(
    tmp_path: Path, ending: str, compress: Any, damage: str
) -> None:
    content = compress(b"{}\n" * 9999)
    packed = tmp_path / f"rows.jsonl.{ending}"
    packed.write_bytes(
        {"other": b"{}\n", "cut off": content[:-20], "more behind": content + b"{}\n"}[damage]
    )

    with pytest.raises(ConfigError, match=f"Source {packed} is damaged, or no .{ending}: "):
        resolve_source(str(packed), Store(tmp_path / "out"))

    assert not (tmp_path / "out").exists()


def test_no_room_to_unpack_is_told_with_the_folder_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unpack(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sources, "unpack", unpack)
    (tmp_path / "rows.jsonl.gz").touch()

    with pytest.raises(ConfigError, match=r"^Folder /.* has no room for a source .*TMPDIR=FOLDER"):
        resolve_files(str(tmp_path / "rows.jsonl.gz"), Store(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_empty_compressed_file_has_no_rows(tmp_path: Path) -> None:
    packed = tmp_path / "rows.jsonl.gz"
    packed.write_bytes(gzip.compress(b""))

    [file] = resolve_source(str(packed), Store(tmp_path / "out")).files

    assert list(read_records(file)) == []


def test_missing_package_for_a_compression_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpacking, "find_spec", lambda _: None)
    (tmp_path / "rows.jsonl.zst").touch()

    with pytest.raises(ConfigError, match=r"needs the package zstandard. Install it: pip .*zstd"):
        resolve_source(f"{tmp_path}/rows.jsonl.zst", Store(tmp_path / "out"))


def test_compressed_file_of_no_known_kind_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    (tmp_path / "rows.tar.gz").write_bytes(b"")

    with pytest.raises(ConfigError, match=r"rows.tar must end in .*, got .tar"):
        resolve_source(f"{tmp_path}/rows.tar.gz", Store(tmp_path / "out"))
