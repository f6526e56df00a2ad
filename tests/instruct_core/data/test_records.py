"""Rows read from any place on, in every format, with the place of what is wrong."""

from __future__ import annotations

import csv
import errno
import gzip
import io
import json
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st

from instruct_core.data import json_rows, records, source_file
from instruct_core.data.parquet_rows import read_parquet
from instruct_core.data.record import FIRST
from instruct_core.data.records import read_records
from instruct_core.errors import BadRowError, ConfigError

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0"), max_size=30)
ROWS = st.lists(st.fixed_dictionaries({"a": TEXTS, "b": TEXTS}), min_size=1, max_size=12)


def write(folder: Path, ending: str, rows: list[dict[str, str]]) -> str:
    path = folder / f"rows.{ending}"
    if ending in ("jsonl", "ndjson"):
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        path.write_text(lines, encoding="utf-8")
    elif ending == "json":
        path.write_text(json.dumps(rows, ensure_ascii=False, indent=2), encoding="utf-8")
    elif ending in ("csv", "tsv"):
        with path.open("w", newline="", encoding="utf-8") as file:
            delimiter = "," if ending == "csv" else "\t"
            writer = csv.DictWriter(file, ["a", "b"], quoting=csv.QUOTE_ALL, delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=5)
    return str(path)


@pytest.mark.parametrize("ending", ["jsonl", "ndjson", "json", "csv", "tsv", "parquet"])
@settings(deadline=None, max_examples=40)
@given(rows=ROWS)
def test_reading_on_from_any_record_equals_reading_all(
    tmp_path_factory: pytest.TempPathFactory, ending: str, rows: list[dict[str, str]]
) -> None:
    url = write(tmp_path_factory.mktemp("rows"), ending, rows)

    whole = list(read_records(url))
    rests = [[r.value for r in read_records(url, record.next)] for record in whole]

    assert [record.value for record in whole] == rows
    assert rests == [rows[k + 1 :] for k in range(len(rows))]


def test_csv_row_with_other_fields_is_named_and_reading_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('a,b\n1,"x\ny"\n1,2,3\n4,5\n')

    found = list(read_records(str(path)))

    assert [r.value for r in found] == [{"a": "1", "b": "x\ny"}, None, {"a": "4", "b": "5"}]
    assert found[1].where == f"{path}:4"
    assert found[1].problem == "it has 3 fields, the header has 2"


def test_empty_csv_among_others_has_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("")

    assert list(read_records(str(path))) == []


@pytest.mark.parametrize(
    ("name", "found"), [("rows.txt", "got .txt"), ("rows", "has no ending"), ("a.b/rows", "has no")]
)
def test_file_of_an_unknown_kind_is_refused(name: str, found: str) -> None:
    with pytest.raises(ConfigError, match=rf"must end in .jsonl, .*\.tsv or .parquet, .*{found}"):
        records.format_of(name)


def test_query_of_a_url_is_no_part_of_its_ending() -> None:
    assert records.format_of("https://host/rows.jsonl?download=true") == "jsonl"


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (gzip.compress(b"{}\n", mtime=0), "the ending .gz"),
        (b"<!DOCTYPE html>\n<html></html>", "a web page"),
    ],
)
def test_file_that_is_of_another_kind_than_its_name_says_is_refused(
    tmp_path: Path, content: bytes, what: str
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)

    with pytest.raises(BadRowError, match=f"Source {path} is .*{what}"):
        list(read_records(str(path)))


@pytest.mark.parametrize("place", ["page", "footer"])
def test_damaged_parquet_is_named(tmp_path: Path, place: str) -> None:
    url = write(tmp_path, "parquet", [{"a": f"row {k}", "b": "x"} for k in range(50)])
    content = bytearray(Path(url).read_bytes())
    start = 4 if place == "page" else len(content) - 60
    content[start : start + 20] = b"\xff" * 20
    Path(url).write_bytes(content)

    with pytest.raises(BadRowError, match=f"Source {url} is damaged behind row 0") as caught:
        list(read_records(url))

    assert "\n" not in str(caught.value)


def test_value_of_a_parquet_file_that_cannot_be_read_costs_its_own_row_alone(
    tmp_path: Path,
) -> None:
    offsets = pa.py_buffer(np.array([0, 1, 2, 3, 4], np.int32).tobytes())
    letters = pa.Array.from_buffers(pa.string(), 4, [None, offsets, pa.py_buffer(b"a\xffcd")])
    when = pa.array([0, 0, 2**62, 0], pa.timestamp("us"))
    pq.write_table(pa.table({"letter": letters, "when": when}), tmp_path / "rows.parquet")

    found = list(read_records(str(tmp_path / "rows.parquet")))

    assert [record.value and record.value["letter"] for record in found] == ["a", None, None, "d"]
    assert [record.problem[:28] for record in found if record.value is None] == [
        "column letter cannot be read", "column when cannot be read: "
    ]  # fmt: skip
    assert [record.line for record in found] == [1, 2, 3, 4]


def test_parquet_with_a_column_twice_is_refused(tmp_path: Path) -> None:
    table = pa.table([["q"], ["one"], ["two"]], names=["a", "b", "b"])
    pq.write_table(table, tmp_path / "rows.parquet")

    with pytest.raises(BadRowError, match=r"^Source \S+ cannot be read: .*, got 'b' twice"):
        list(read_records(str(tmp_path / "rows.parquet")))


def test_disk_that_fails_is_not_taken_for_a_damaged_file(tmp_path: Path) -> None:
    class FailingFile(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(OSError, match="Input/output error") as caught:
        list(read_parquet(FailingFile(b"x" * 1000), "rows.parquet", FIRST))

    assert not isinstance(caught.value, BadRowError)


class CountedFile(AbstractBufferedFile):  # type: ignore[misc]
    """A file of an object store that counts what is read from it, and what it fetches."""

    bytes_read = bytes_fetched = requests = 0

    def read(self, length: int = -1) -> bytes:
        data = bytes(super().read(length))
        CountedFile.bytes_read += len(data)
        return data

    def _fetch_range(self, start: int, end: int) -> bytes:
        CountedFile.requests += 1
        data: bytes = self.fs.contents[self.path][start:end]
        CountedFile.bytes_fetched += len(data)
        return data


class CountedStore(AbstractFileSystem):  # type: ignore[misc]
    """Files in memory that are read as those of an object store are, in blocks of 50 MB by default."""

    protocol = "counted"
    contents: ClassVar[dict[str, bytes]] = {}

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        path = self._strip_protocol(path)
        return {"name": path, "size": len(self.contents[path]), "type": "file"}

    def _open(self, path: str, mode: str = "rb", block_size: int | None = None, **_: Any) -> Any:
        return CountedFile(self, path, mode, block_size or 50 << 20)


@pytest.fixture
def counted_store(monkeypatch: pytest.MonkeyPatch) -> type[CountedFile]:
    fsspec.register_implementation("counted", CountedStore, clobber=True)
    monkeypatch.setattr(source_file, "BLOCK_BYTES", 1 << 20)
    monkeypatch.setattr(source_file, "BUFFER_BYTES", 1 << 17)
    monkeypatch.setattr(json_rows, "READ_BYTES", 1 << 18)
    for count in ("bytes_read", "bytes_fetched", "requests"):
        monkeypatch.setattr(CountedFile, count, 0)
    return CountedFile


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv"])
def test_source_in_a_bucket_is_read_once_in_large_pieces(
    tmp_path: Path, counted_store: type[CountedFile], ending: str
) -> None:
    url = write(tmp_path, ending, [{"a": "x" * 2000, "b": "y"}] * 2_500)
    size = Path(url).stat().st_size
    CountedStore.contents[f"rows.{ending}"] = Path(url).read_bytes()

    whole = list(read_records(f"counted://rows.{ending}"))

    assert len(whole) == 2_500
    assert counted_store.bytes_read <= size + 2 * source_file.BUFFER_BYTES
    assert counted_store.bytes_fetched <= size + source_file.BLOCK_BYTES
    assert counted_store.requests <= size / source_file.BLOCK_BYTES + 2


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv"])
def test_a_range_of_a_source_in_a_bucket_costs_little_more_than_itself(
    tmp_path: Path, counted_store: type[CountedFile], ending: str
) -> None:
    rows = [{"a": "x" * 2000, "b": str(k)} for k in range(4_000)]
    url = write(tmp_path, ending, rows)
    CountedStore.contents[f"rows.{ending}"] = Path(url).read_bytes()
    start = list(read_records(url))[3_000].next

    range_of_rows = list(islice(read_records(f"counted://rows.{ending}", start), 250))

    assert [record.value for record in range_of_rows] == rows[3_001:3_251]
    assert counted_store.bytes_read <= 2 * source_file.BLOCK_BYTES
    assert counted_store.bytes_fetched <= 3 * source_file.BLOCK_BYTES
