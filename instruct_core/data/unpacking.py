"""
Compressed files written out plain: all of their streams, to the very last byte.

    unpack("s3://bucket/rows.jsonl.gz", file)

Python's own readers of .bz2 and .xz, and zstandard's, pass over what they do not understand behind the
first stream, and zstandard's also a file that is cut off. Rows must not get lost in this way.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable
from importlib.util import find_spec
from typing import IO, Any

from instruct_core.data.source_file import open_source
from instruct_core.errors import ConfigError, InstructError, how_to_install

PIECE_BYTES = 1 << 18


def _zstd() -> Any:
    import zstandard

    return zstandard.ZstdDecompressor().decompressobj()


# By ending; each has decompress, eof and unused_data, as those of the standard library have.
COMPRESSIONS: dict[str, Callable[[], Any]] = {
    "gz": lambda: zlib.decompressobj(wbits=31),
    "bz2": bz2.BZ2Decompressor,
    "xz": lzma.LZMADecompressor,
    "zst": _zstd,
}


def unpack(url: str, ending: str, plain: IO[bytes]) -> None:
    """
    Write what a compressed file holds.

    Args:
        url: Of the file.
        ending: One of `COMPRESSIONS`.
        plain: Where to.

    Raises:
        ConfigError: It is damaged, cut off or of another kind, or a package is missing.
    """
    if ending == "zst" and find_spec("zstandard") is None:
        raise ConfigError(f"Source {url} needs the package zstandard. {how_to_install('zstd')}")
    try:
        with open_source(url) as file:
            _copy(file, COMPRESSIONS[ending], plain)
    except Exception as error:  # every compression has a kind of its own for a damaged file
        if isinstance(error, InstructError) or (
            isinstance(error, OSError) and error.errno is not None
        ):
            raise  # of the disk or the store, which may pass
        raise ConfigError(
            f"Source {url} is damaged, or no .{ending}: {str(error).rstrip('.')}. "
            "Fetch it again, or unpack it first."
        ) from None


def _copy(file: IO[bytes], new_stream: Callable[[], Any], plain: IO[bytes]) -> None:
    stream = None
    while data := file.read(PIECE_BYTES):
        while data:
            if stream is None:
                data = data.lstrip(b"\0")  # some fill up with zeros between streams, and at the end
                if not data:
                    break
                stream = new_stream()
            plain.write(stream.decompress(data))
            data = b""
            if stream.eof:
                data, stream = stream.unused_data, None
    if stream is not None:
        raise EOFError("it is cut off")
