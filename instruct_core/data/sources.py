"""
From what a person typed after --source to files that every task can read.

    source = resolve_source("vicgalle/alpaca-gpt4", Store("shards/alpaca"))
    source.files      # ['shards/alpaca/source/rows.parquet']

Paths, globs, folders and URLs stay where they are; of a folder its own files are read, in the order of
their names, each by its ending. A Hugging Face dataset is downloaded once, here on the
submitting machine, a compressed file is unpacked, and `builtin` is written out: each becomes a file
below the shard set, so tasks on nodes without internet read files, from any row on, and nothing else.
"""

from __future__ import annotations

import json
import mmap
import platform
import re
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any, NamedTuple

import fsspec
import xxhash
from fsspec.implementations.local import LocalFileSystem

from instruct_core.data.builtin import builtin_rows
from instruct_core.data.hub import Dataset, dataset_of, fetch, splits_of
from instruct_core.data.records import FORMATS, ending_of, format_of
from instruct_core.data.unpacking import COMPRESSIONS, unpack
from instruct_core.errors import ConfigError, InstructError, MissingError
from instruct_core.storage.patience import NO_ROOM, on_a_disk
from instruct_core.storage.plain_errors import may_pass, plain_errors
from instruct_core.storage.store import Store

BUILTIN = "builtin"
GLOB = re.compile(r"[*?[]")
# What lies beside rows in folders of Hugging Face's datasets, and is about them.
ABOUT_ROWS = {"dataset_dict.json", "dataset_info.json", "dataset_infos.json", "state.json"}
SHARDS = {"manifest.json", "plan.json"}


class Source(NamedTuple):
    """What was asked for, what stands behind it now, and the files that hold its rows, in order."""

    name: str
    identity: str
    files: Sequence[str]
    left: Sequence[str] = ()  # names of files of a folder that are not read
    packed: Mapping[str, str] = {}  # by file that was unpacked: what a person knows it by

    def shown(self, text: str) -> str:
        """Return a text in which files that were unpacked have the names of those that were typed."""
        for file, typed in self.packed.items():
            text = text.replace(file, typed)
        return text

    @contextmanager
    def shown_errors(self) -> Iterator[None]:
        """Have errors of these files say what was typed; raises InstructError."""
        try:
            yield
        except InstructError as error:
            if (said := self.shown(str(error))) == str(error):
                raise
            raise type(error)(said) from error


def resolve_source(name: str, out: Store) -> Source:
    """
    Return the files of a source; may download into, unpack into, or write below, ``out``/source.

    Raises:
        MissingError: No such file, no match of a glob, or no dataset of that name can be had.
        ConfigError: A folder without rows, or of several splits, or a kind of file that is not read.
    """
    if name == BUILTIN:
        return _builtin(out)
    files, left = _matching_files(name)
    dataset = dataset_of(name)
    if not files and dataset is not None and not _has_known_ending(name):
        return _downloaded(dataset, out)
    if not files:
        raise MissingError(
            f"Source {name} is not there: no file or dataset of that name. "
            "Give a path, a glob, a URL, a Hugging Face dataset id, or builtin."
        )
    if not GLOB.search(name):
        _refuse_splits(name, files)
    return _of_files(name, files, left, out)


def resolve_files(name: str, out: Store) -> Source:
    """
    Return a source that must be files; may unpack into ``out``/source.

    Raises:
        MissingError: No such file, or no match of a glob.
        ConfigError: A folder without rows, or a kind of file that is not read.
    """
    files, left = _matching_files(name)
    if not files:
        raise MissingError(f"Source {name} is not there. Give a path, a glob or a URL of files.")
    return _of_files(name, files, left, out)


def _of_files(name: str, files: Sequence[str], left: Sequence[str], out: Store) -> Source:
    for file in files:
        format_of(_unpacked_name(file))
        _refuse_special(file)
    plain = [_unpacked(file, out) for file in files]
    packed = {there: file for there, file in zip(plain, files, strict=True) if there != file}
    return Source(name, name, plain, left, packed)


def _matching_files(name: str) -> tuple[list[str], list[str]]:
    """Return the files that are meant, and the names of those beside them that are not read."""
    try:
        fs, path = fsspec.core.url_to_fs(name)
    except (ImportError, ValueError, OSError) as error:  # some connect at once
        raise ConfigError(f"Source {name} cannot be read: {error}") from error
    info = _info(fs, path, name)
    if info is not None and info["type"] == "directory":
        return _files_in(fs, path, name)
    if info is not None:
        return [name], []  # also a file whose name looks like a glob
    if not GLOB.search(name):
        return [], []
    matches = sorted(_asked(name, lambda: fs.glob(path)))
    return [_url(fs, found) for found in matches if _is_meant(found, path)], []


def _refuse_special(file: str) -> None:
    """Refuse what is no plain file: a pipe is read once, and a source many times, from any row on."""
    fs, path = fsspec.core.url_to_fs(file)
    if not isinstance(fs, LocalFileSystem):
        return
    try:
        mode = on_a_disk(Path(path), Path(path).stat).st_mode
    except FileNotFoundError:
        raise MissingError(f"Source {file} is a link to what is not there.") from None
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise ConfigError(f"Source {file} is no file but {what}. Give a file with the rows.")


def _is_meant(found: str, pattern: str) -> bool:
    """Return False for what a shell leaves out of a pattern's matches: hidden, and not typed so."""
    typed = [part for part in pattern.split("/") if part.startswith(".")]
    hidden = [part for part in found.split("/") if part.startswith(".")]
    return all(any(fnmatchcase(part, word) for word in typed) for part in hidden)


def _url(fs: Any, path: str) -> str:
    return str(fs.unstrip_protocol(path)).removeprefix("file://")


def _files_in(fs: Any, path: str, name: str) -> tuple[list[str], list[str]]:
    """Return the files with rows in a folder, not in those inside it, and the names of all others."""
    listing = _asked(name, lambda: fs.ls(path, detail=True))
    entries = {entry["name"].rstrip("/").rsplit("/", 1)[-1]: entry for entry in listing}
    seen = {n: entry for n, entry in sorted(entries.items()) if n and not n.startswith((".", "_"))}
    files = [n for n, entry in seen.items() if entry["type"] != "directory"]
    with_rows = [n for n in files if _has_rows(n) and n not in ABOUT_ROWS]
    if seen.keys() >= SHARDS:
        raise ConfigError(f"Source {name} is a shard set. Give the rows that it was made from.")
    saved = next((n for n in seen if n == "dataset_dict.json" or n.endswith(".arrow")), "")
    if not with_rows and saved:
        part = '["train"]' if saved == "dataset_dict.json" else ""
        raise ConfigError(
            f"Source {name} is a folder of datasets' save_to_disk, and .arrow files are not read. Write "
            f'it as a file: datasets.load_from_disk("{name}"){part}.to_parquet("rows.parquet")'
        )
    if not with_rows:
        endings = ", ".join(f".{ending}" for ending in FORMATS)
        inside = [n for n, entry in seen.items() if entry["type"] == "directory"]
        more = f", or a folder in it ({', '.join(inside[:5])})" if inside else ""
        raise ConfigError(
            f"Source {name} is a folder without rows: no file in it ends in {endings}. Give another"
            f"{more}."
        )
    return [_url(fs, seen[n]["name"]) for n in with_rows], [n for n in files if n not in with_rows]


def _refuse_splits(name: str, files: Sequence[str]) -> None:
    """Refuse a folder with the splits of a dataset: what is there to test with would be learnt."""
    if len(splits := splits_of(files)) > 1:
        raise ConfigError(
            f"Source {name} is a folder with several splits ({', '.join(splits)}), and all of them would "
            f"be learnt. Name the files that are meant: '{name.rstrip('/')}/*{splits[0]}*'"
        )


def _has_rows(name: str) -> bool:
    return ending_of(_unpacked_name(name)) in FORMATS


def _info(fs: Any, path: str, name: str) -> dict[str, Any] | None:
    """Return what stands at a path; None for nothing."""
    try:
        return dict(_asked(name, lambda: fs.info(path)))
    except (FileNotFoundError, NotADirectoryError):
        return None


def _asked(name: str, look: Callable[[], Any]) -> Any:
    """Return what a place says of itself; raises ConfigError where it refuses or does not answer."""
    try:
        with plain_errors(name):
            return look()
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        reason = (error.strerror or str(error)).removeprefix(f"{name}: ").rstrip(".")
        later = " Try again in some minutes." if "://" in name and may_pass(error) else ""
        raise ConfigError(f"Source {name} cannot be read: {reason}.{later}") from None


def _has_known_ending(name: str) -> bool:
    return ending_of(name) in (*FORMATS, *COMPRESSIONS)


def _unpacked_name(url: str) -> str:
    ending = ending_of(url)
    return url[: -len(ending) - 1] if ending in COMPRESSIONS else url


def _unpacked(url: str, out: Store) -> str:
    """Return a file as it is, or where a compressed one lies unpacked: rows are found by seeking."""
    ending = ending_of(url)
    if ending not in COMPRESSIONS:
        return url
    fs, path = fsspec.core.url_to_fs(url)
    # What it was unpacked from is in the file's name: one that is there is the right one.
    facts = repr(
        [url, *(fs.info(path).get(key) for key in ("size", "mtime", "ETag", "LastModified"))]
    )
    plain = _unpacked_name(url).rsplit("/", 1)[-1]
    name = f"source/{xxhash.xxh3_64_hexdigest(facts.encode())}-{plain}"
    if not out.exists(name):
        with _scratch() as scratch:
            unpack(url, ending, scratch)
            _put(out, name, scratch)
    return out.where(name)


@contextmanager
def _scratch() -> Iterator[IO[bytes]]:
    """Yield a file without a name; raises ConfigError where there is no room for what it is to hold."""
    try:
        with tempfile.TemporaryFile() as file:
            yield file
    except OSError as error:
        if error.errno not in NO_ROOM or error.filename is not None:
            raise
        raise ConfigError(
            f"Folder {tempfile.gettempdir()} has no room for a source that is unpacked or fetched: "
            f"{error.strerror}. Make room, or name another folder: TMPDIR=FOLDER before the command."
        ) from None


def _put(out: Store, name: str, scratch: IO[bytes]) -> None:
    scratch.flush()
    if scratch.seek(0, 2) == 0:
        out.replace(name, b"")
        return
    mapped = mmap.mmap(scratch.fileno(), 0, access=mmap.ACCESS_READ)
    with mapped, memoryview(mapped) as data:
        out.replace(name, data)


def _builtin(out: Store) -> Source:
    corpus = version("chatterbot-corpus")
    identity = f"builtin of Python {platform.python_version()}, chatterbot-corpus {corpus}"
    # The version is in the file's name: a file that is there is the right one.
    name = f"source/builtin-{platform.python_version()}-{corpus}.jsonl"
    if not out.exists(name):
        lines = [json.dumps(row._asdict(), ensure_ascii=False) + "\n" for row in builtin_rows()]
        out.replace(name, "".join(lines).encode())
    return Source(BUILTIN, identity, [out.where(name)])


def _downloaded(dataset: Dataset, out: Store) -> Source:
    name = f"source/{dataset.id.replace('/', '--')}.parquet"
    if any(dataset[1:]):
        name = f"source/{xxhash.xxh3_64_hexdigest(str(dataset).encode())}-{dataset.name}.parquet"
    if not out.exists(name):
        with _scratch() as scratch:
            fetch(dataset, scratch)
            _put(out, name, scratch)
    return Source(str(dataset), f"Hugging Face dataset {dataset}", [out.where(name)])
