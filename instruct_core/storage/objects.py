"""
Files of anything else that fsspec reaches: s3://, gs://, az://, memory://.

    objects = Objects("s3://bucket/my-run")
    digest = objects.put("step-00000100/model.safetensors", views)

An object appears whole or not at all, and here always as one that was not there: `put` and `claim`
ask the store to create it only if nobody did (If-None-Match and its like). fsspec's clients answer
the loser with FileExistsError, s3fs also with EINVAL; a request that was repeated because its answer
got lost can lose against itself, so the loser looks whose bytes are there.

Credentials come from the environment, as each client documents it; none are taken from a URL, and
what a client says about them does not reach a message.

Sources: S3 conditional writes (docs.aws.amazon.com, AmazonS3/latest/userguide/conditional-writes);
fsspec's AsyncFileSystem._pipe_file and its versions in s3fs, gcsfs and adlfs.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import fsspec
import xxhash
from fsspec.asyn import AsyncFileSystem
from fsspec.spec import AbstractFileSystem

from instruct_core.errors import ConfigError, CorruptFileError, how_to_install
from instruct_core.storage.backend import Free, ReadAt
from instruct_core.storage.client_pauses import leave_generator_alone
from instruct_core.storage.client_words import keep_quiet_of_other_parts
from instruct_core.storage.patience import patiently
from instruct_core.storage.plain_errors import may_pass, plain_errors, without_secrets

# Fail within seconds where nobody answers: what is worth waiting for is tried again by us. botocore's
# own retries would also draw from Python's random generator, whose state belongs to the run.
OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {
        "config_kwargs": {"connect_timeout": 5, "read_timeout": 30, "retries": {"max_attempts": 0}}
    }
}
EXTRAS = {"s3": "s3", "gs": "gcs", "gcs": "gcs", "az": "azure", "abfs": "azure", "abfss": "azure"}
UPLOAD_BYTES = 16 << 20  # a part; eight of them travel at a time
WRITE_PATIENCE_SECONDS = (
    3.0  # of a save, which is tried again as a whole where that does not suffice
)
T = TypeVar("T")


def _try_again_soon(azure: Any) -> None:
    """Have Azure's client wait a second and more between its tries, and not a quarter of a minute."""
    # There is no setting that adlfs would hand on.
    retries = azure.service_client._config.retry_policy
    retries.initial_backoff, retries.increment_base, retries.random_jitter_range = 1, 2, 1


class Objects:
    """
    Objects below a URL.

    Args:
        url: Of the folder.
        patience_seconds: How long all but `put` and removals go on while the store does not answer.

    Raises:
        ConfigError: No installed package speaks the protocol.
    """

    read_bytes = 16 << 20
    read_threads = 8

    def __init__(self, url: str, patience_seconds: float) -> None:
        self._url, self._patience = url, patience_seconds
        protocol = "s3" if url.startswith(("s3://", "s3a://")) else url.partition("://")[0]
        try:
            self._fs, self._root = fsspec.core.url_to_fs(url, **OPTIONS.get(protocol, {}))
        except Exception as error:  # no such protocol, no client installed, no account given
            extra = EXTRAS.get(protocol)
            hint = " Check the URL, and the credentials in the environment." if extra else ""
            if extra and isinstance(error, ImportError):
                hint = f" {how_to_install(extra)}"
            reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".!")
            raise ConfigError(
                without_secrets(f"Place {url} cannot be used: {reason}.{hint}")
            ) from None
        leave_generator_alone()
        logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # what it logs, it raises too
        self._is_s3 = protocol == "s3"
        if self._is_s3:
            self._fs.retries = 2  # once more where a connection was closed meanwhile
        if EXTRAS.get(protocol) == "azure":
            _try_again_soon(self._fs)
            keep_quiet_of_other_parts(self._fs.loop)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else str(self._root)

    def entries(self, folder: str) -> dict[str, int | None]:
        """Return names directly inside a folder and their sizes, None for a folder; {} for none."""
        try:
            listed = self._patiently(self._list, folder)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        return {
            entry["name"].rstrip("/").rsplit("/", 1)[-1]: (
                None if entry["type"] == "directory" else int(entry["size"])
            )
            for entry in listed
            if entry["name"].strip("/") != self._path(folder).strip("/")  # some list the folder too
        }

    def _list(self, folder: str) -> list[dict[str, Any]]:
        self._fs.invalidate_cache()
        return list(self._fs.ls(self._path(folder), detail=True))

    def tree(self) -> dict[str, int | None]:
        """Return all objects below with their sizes, a thousand a request."""
        try:
            found = self._patiently(self._find)
        except FileNotFoundError:
            return {}
        start = len(self._root.strip("/")) + 1
        return {name.strip("/")[start:]: int(entry["size"]) for name, entry in found.items()}

    def _find(self) -> dict[str, dict[str, Any]]:
        self._fs.invalidate_cache()
        # fsspec's own find leaves out folders that it could not list.
        own = getattr(type(self._fs), "_find", AbstractFileSystem.find)
        own = type(self._fs).find if own is AbstractFileSystem.find else own
        generic = own in (AbstractFileSystem.find, AsyncFileSystem._find)
        strict = {"on_error": "raise"} if generic else {}
        return dict(self._fs.find(self._root, detail=True, **strict))

    def forget_listings(self) -> None:
        """Have the client ask anew; `entries` does so every time."""
        self._fs.invalidate_cache()

    def exists(self, name: str) -> bool:
        """Return True if an object or a folder of that name is there."""
        self._fs.invalidate_cache()
        try:  # not fsspec's own exists, which takes a store that does not answer for an empty one
            self._patiently(self._fs.info, self._path(name))
        except FileNotFoundError:
            return False
        return True

    def size_bytes(self, name: str) -> int:
        """Return an object's size; raises FileNotFoundError."""
        self._fs.invalidate_cache()
        return int(self._patiently(self._fs.size, self._path(name)))

    def read(self, name: str, at_most: int) -> bytes:
        """Return an object's first bytes; raises FileNotFoundError."""
        if self.size_bytes(name) <= at_most:
            return bytes(self._patiently(self._fs.cat_file, self._path(name)))
        return bytes(self._patiently(self._fs.cat_file, self._path(name), end=at_most))

    @contextmanager
    def reader(self, name: str, past_cache: bool = False) -> Iterator[ReadAt]:  # noqa: ARG002  no cache
        """Read an object at offsets, from several threads; nothing is cached."""
        path = self._path(name)

        def read_at(view: memoryview, offset: int) -> None:
            end = offset + view.nbytes
            data = self._patiently(self._fs.cat_file, path, start=offset, end=end)
            if len(data) != view.nbytes:
                raise CorruptFileError(
                    f"{self._where(name)} ends after {offset + len(data)} bytes."
                )
            view[:] = data

        yield read_at

    def put(self, name: str, views: Sequence[memoryview]) -> str:
        """Write a new object, and return xxh3-128 of its bytes; raises FileExistsError."""
        data = views[0] if len(views) == 1 else memoryview(b"".join(views))
        digest = xxhash.xxh3_128_hexdigest(data)
        # One part of one rank that is refused once must not fail the save of all.
        if not patiently(lambda: self._create(name, data), WRITE_PATIENCE_SECONDS, may_pass):
            raise FileExistsError(errno.EEXIST, "somebody else has written it", self._where(name))
        return digest

    def _create(self, name: str, data: memoryview) -> bool:
        with plain_errors(self._where(name)):
            try:
                if self._is_s3 and data.nbytes >= 2 * UPLOAD_BYTES:
                    self._fs.pipe_file(
                        self._path(name), _Parts(data), chunksize=UPLOAD_BYTES,
                        max_concurrency=8, mode="create",
                    )  # fmt: skip
                else:
                    self._fs.pipe_file(self._path(name), bytes(data), mode="create")
            except OSError as error:
                # Who asks again after an answer that got lost finds the object, or no upload any more.
                known = (FileExistsError, FileNotFoundError)
                if not isinstance(error, known) and error.errno != errno.EINVAL:
                    raise
                try:
                    return self._holds(name, data)
                except FileNotFoundError:
                    raise error from None  # not lost: the request itself was refused
        return True

    def _holds(self, name: str, data: memoryview) -> bool:
        self._fs.invalidate_cache()
        if self._fs.size(self._path(name)) != data.nbytes:
            return False
        return bool(self._fs.cat_file(self._path(name)) == data)

    def replace(self, name: str, data: bytes | memoryview) -> None:
        """Write a small object over what was there."""

        def write() -> None:
            with plain_errors(self._where(name)):
                self._fs.pipe_file(self._path(name), bytes(data))

        patiently(write, self._patience, may_pass)

    def claim(self, name: str, data: bytes) -> bool:
        """Create an object that nobody else created; False if somebody did."""
        return self._patiently(self._create, name, memoryview(data))

    def remove(self, name: str) -> None:
        """Remove an object or a folder with all it holds; fine if it is gone already."""
        with plain_errors(self._where(name)):
            self._fs.invalidate_cache()
            try:
                self._fs.rm(self._path(name), recursive=True)
            except FileNotFoundError:
                return

    def move(self, name: str, new_name: str) -> None:
        """Give a folder another name: a copy, then the removal, manifest first."""
        with plain_errors(self._where(name)):
            self._fs.invalidate_cache()
            for path in sorted(self._fs.find(self._path(name)), key=_manifest_first):
                target = self._path(new_name) + path.removeprefix(self._path(name))
                self._fs.cp_file(path, target)
                self._fs.rm_file(path)

    def free(self) -> Free | None:
        """Return None: a bucket has no end."""
        return None

    def writable_by_others(self, folder: str) -> list[str]:  # noqa: ARG002  as a disk is asked
        """Return []: who may write is the store's matter."""
        return []

    def check_root(self) -> None:
        """Raise FileNotFoundError where the bucket is not there: some servers make one at a write."""
        if not self._is_s3:
            return
        bucket = self._root.partition("/")[0]
        with plain_errors(self._url):
            try:
                self._fs.call_s3("head_bucket", Bucket=bucket)
            except FileNotFoundError:
                raise FileNotFoundError(errno.ENOENT, f"there is no bucket {bucket}") from None
            except PermissionError:
                return  # may be allowed to use a folder of it all the same; the write will tell

    def _where(self, name: str) -> str:
        return f"{self._url}/{name}"

    def _patiently(self, call: Callable[..., T], *args: Any, **options: Any) -> T:
        """Call until it is answered, or our patience ends."""

        def once() -> T:
            with plain_errors(self._url):
                return call(*args, **options)

        return patiently(once, self._patience, may_pass)


class _Parts:
    """A large object for s3fs, which cuts parts out of it; its client takes no memoryview."""

    def __init__(self, view: memoryview) -> None:
        self._view = view

    def __len__(self) -> int:
        return self._view.nbytes

    def __getitem__(self, part: slice) -> bytes:
        return bytes(self._view[part])


def _manifest_first(path: str) -> tuple[bool, str]:
    return not path.endswith("/manifest.json"), path
