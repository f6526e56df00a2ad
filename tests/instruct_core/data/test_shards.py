"""Shards are what was written, or they are named."""

from __future__ import annotations

import errno
import os
import shutil
from io import FileIO
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from instruct_core.data import verified_file
from instruct_core.data.set_manifest import load_manifest
from instruct_core.data.shard_plan import ShardPlan, scan
from instruct_core.data.shards import (
    ShardSet,
    is_written,
    write_manifest,
    write_shard,
)
from instruct_core.data.sources import Source
from instruct_core.data.template import text_of
from instruct_core.data.templates import BY_HEADINGS
from instruct_core.data.tokenizer import load_tokenizer
from instruct_core.errors import CorruptFileError, MissingError
from instruct_core.storage import patience
from instruct_core.storage.store import Store
from tests.slow_clock import Clock


@pytest.fixture
def copied(shard_set: Path, tmp_path: Path) -> Store:
    return Store(shutil.copytree(shard_set, tmp_path / "set"))


@pytest.fixture
def plan(shard_set: Path) -> ShardPlan:
    return ShardPlan.load(Store(shard_set))


def test_rows_read_back_as_the_text_they_were(shard_set: Path, plan: ShardPlan) -> None:
    tokenizer = load_tokenizer()
    rows = ShardSet(Store(shard_set), "val")
    expected = []
    for shard in range(plan.num_parts):
        texts = [text_of(row) for row in plan.rows(shard, BY_HEADINGS) if row]
        is_val = plan.is_val(shard, texts)
        expected += [text for text, val in zip(texts, is_val, strict=True) if val]

    texts = [tokenizer.decode(rows.tokens(row, 0, 10**6).tolist()) for row in range(len(rows))]

    assert texts == [text + "<|endoftext|>" for text in expected]


def test_rows_are_drawn_from_all_over_the_split(shard_set: Path) -> None:
    rows = ShardSet(Store(shard_set), "train")

    drawn = rows.drawn(20)

    assert len(set(drawn)) == 20
    assert min(drawn) < 190
    assert max(drawn) > 380
    assert drawn == rows.drawn(20)
    assert sorted(rows.drawn(10**6)) == list(range(len(rows)))


def test_response_begins_after_the_last_heading(shard_set: Path) -> None:
    tokenizer, rows = load_tokenizer(), ShardSet(Store(shard_set), "train")

    for row in range(0, len(rows), 50):
        prompt = tokenizer.decode(rows.tokens(row, 0, rows.spans(row)[0, 0]).tolist())
        assert prompt.endswith("### Response:\n")


def test_official_library_reads_a_shard(shard_set: Path) -> None:
    arrays = load_file(shard_set / "train" / "00000.safetensors")

    assert arrays["tokens"].dtype == np.uint16
    assert arrays["offsets"][-1] == len(arrays["tokens"])
    assert len(arrays["response_starts"]) == len(arrays["offsets"]) - 1


@pytest.mark.parametrize("damage", ["cut", "flip", "gone"])
def test_damaged_shard_is_named_and_not_read(copied: Store, plan: ShardPlan, damage: str) -> None:
    path = copied.local_path("train/00001.safetensors")
    data = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(data[:-3])
    elif damage == "flip":
        data[len(data) // 2] ^= 4
        path.write_bytes(data)
    else:
        path.unlink()

    with pytest.raises(
        CorruptFileError, match=r"train/00001.safetensors is .*preprocess.py .*--out"
    ):
        ShardSet(copied, "train").lengths()
    assert not is_written(copied, plan, 1)
    assert is_written(copied, plan, 0)
    assert not write_manifest(copied, plan)


def test_rebuilt_shard_has_the_same_bytes(copied: Store, plan: ShardPlan) -> None:
    path = copied.local_path("train/00001.safetensors")
    before = path.read_bytes()
    path.unlink()

    write_shard(copied, plan, 1, load_tokenizer())

    assert path.read_bytes() == before


def test_set_without_manifest_is_not_finished(copied: Store) -> None:
    copied.remove("manifest.json")

    with pytest.raises(MissingError, match=r"not finished: no manifest\.json"):
        load_manifest(copied)


def test_shards_of_an_object_store_are_fetched_once(
    shard_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INSTRUCT_CACHE", str(tmp_path / "cache"))
    remote = Store("memory://shards")
    local = Store(shard_set)
    for name in ["manifest.json", *(entry.file for entry in load_manifest(local).train)]:
        remote.replace(name, local.read(name))

    lengths = ShardSet(remote, "train").lengths()
    remote.remove("train")  # from now on only the cache can answer
    again = ShardSet(remote, "train").lengths()

    assert np.array_equal(lengths, ShardSet(local, "train").lengths())
    assert np.array_equal(lengths, again)


def test_shard_of_a_scan_with_skipped_rows_has_the_good_ones(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(
        '{"instruction": "a", "output": "b"}\nbad\n{"instruction": "c", "output": "d"}\n'
    )
    plan = scan(Source("rows", "rows", [str(path)]), None, None, skip_bad_rows=True)
    store = Store(tmp_path / "out")

    write_shard(store, plan, 0, load_tokenizer())
    assert write_manifest(store, plan)

    manifest = load_manifest(store)
    assert manifest.train_rows + manifest.val_rows == 2
    assert manifest.num_bad_rows == 1
    assert manifest.bad_rows[0]["where"] == f"{path}:2"


def test_bad_page_of_one_look_is_no_verdict(copied: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    real, looks = verified_file._digest, []

    def once_wrong(file: FileIO) -> str:
        looks.append(1)
        return "0" * 32 if len(looks) == 1 else real(file)

    monkeypatch.setattr(verified_file, "_digest", once_wrong)
    monkeypatch.setattr(verified_file, "sleep", lambda seconds: looks.append(int(seconds)))

    assert len(ShardSet(copied, "val").tokens(0, 0, 10**6)) > 0
    assert looks[:2] == [1, 2]


def test_few_files_of_a_set_are_open_at_once_and_none_is_hashed_again_until_it_changes(
    copied: Store, plan: ShardPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[str] = []
    digest = verified_file._digest

    def counted(file: FileIO) -> str:
        hashed.append(digest(file))
        return hashed[-1]

    monkeypatch.setattr(verified_file, "_digest", counted)
    monkeypatch.setattr(verified_file, "MAX_OPEN", 1)
    monkeypatch.setattr(verified_file, "LOOK_AGAIN_SECONDS", 0)
    rows = ShardSet(copied, "train")
    places = [0, len(rows) - 1] * 3

    read = [rows.tokens(row, 0, 10).tolist() for row in places]

    assert plan.num_parts > 1
    assert read == read[:2] * 3
    open_files = [str(link.resolve()) for link in Path("/proc/self/fd").iterdir()]
    assert sum(name.startswith(str(copied.local_path("."))) for name in open_files) == 1
    assert len(hashed) == 2
    first = copied.local_path("train/00000.safetensors")
    first.write_bytes(first.read_bytes()[:-1] + b"?")
    with pytest.raises(CorruptFileError, match="xxh3 differs"):
        rows.tokens(0, 0, 10)


def test_file_that_is_opened_again_asks_nothing_of_the_store(
    copied: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every other row may open one: the command that makes the set was read from its plan each time."""
    monkeypatch.setattr(verified_file, "MAX_OPEN", 1)
    rows = ShardSet(copied, "train")
    rows.lengths()
    monkeypatch.setattr(Store, "read", lambda *words, **more: pytest.fail(f"read {words[1:]}"))

    read = [rows.tokens(row, 0, 10).tolist() for row in [0, len(rows) - 1] * 2]

    assert read[0] == read[2] != read[1] == read[3]


@pytest.mark.parametrize("is_same", [True, False])
def test_handle_that_is_stale_for_good_is_opened_anew_if_the_file_is_the_same(
    copied: Store, monkeypatch: pytest.MonkeyPatch, is_same: bool
) -> None:
    """As after a server of NFS has moved: to ask the old handle again would end the rank."""
    monkeypatch.setattr(patience, "time", Clock())
    path = copied.local_path("train/00000.safetensors")
    file, read = verified_file.OpenFile(path), verified_file.OpenFile._read
    whole = file.read(0, 100)
    os.lseek(file.descriptor, 7, os.SEEK_SET)  # by which the old handle is known
    if not is_same:
        shutil.copy(path, path.with_suffix(".new")).replace(path)

    def stale(self: verified_file.OpenFile, start: int, num_bytes: int) -> bytes:
        if os.lseek(self.descriptor, 0, os.SEEK_CUR):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return read(self, start, num_bytes)

    monkeypatch.setattr(verified_file.OpenFile, "_read", stale)

    if is_same:
        assert file.read(0, 100) == whole
    else:
        with pytest.raises(OSError, match=r"00000\.safetensors"):
            file.read(0, 100)


def test_shard_that_has_become_shorter_is_no_rows_of_others(
    copied: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "time", Clock())
    rows = ShardSet(copied, "train")
    rows.lengths()
    path = copied.local_path("train/00000.safetensors")
    whole = path.read_bytes()

    os.truncate(path, len(whole) - 40)  # the same file
    with pytest.raises(OSError, match="it has become shorter") as caught:
        rows.tokens(rows._entries[0].rows - 1, 0, 10**6)

    assert caught.value.errno == errno.EIO  # no damage: another look may find it whole
    path.write_bytes(whole)
    assert len(rows.tokens(rows._entries[0].rows - 1, 0, 10**6)) > 0


def test_files_of_a_set_are_closed_as_soon_as_nobody_has_it(copied: Store) -> None:
    rows = ShardSet(copied, "train")
    rows.lengths()
    del rows

    open_files = [str(link.resolve()) for link in Path("/proc/self/fd").iterdir()]
    assert not [name for name in open_files if name.startswith(str(copied.local_path(".")))]
