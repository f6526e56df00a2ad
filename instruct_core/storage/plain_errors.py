"""
What a store's client raises, as OSError in one line, without secrets.

    with plain_errors("s3://bucket/runs"):
        fs.cat_file(path)
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

BUSY = (408, 425, 429)  # HTTP: ask again later
SECRETS = re.compile(r"KEY|SECRET|TOKEN|PASSWORD|CREDENTIAL|CONNECTION_STRING|SAS")


def may_pass(error: OSError) -> bool:
    """Return True for what may be over in a while: no answer, too busy, a broken connection."""
    lasting = (
        FileNotFoundError, FileExistsError, PermissionError, NotADirectoryError, IsADirectoryError,
    )  # fmt: skip
    return not isinstance(error, lasting) and error.errno != errno.EINVAL


def is_refusal(error: OSError) -> bool:
    """Return True for a store that does not let us in (HTTP 403); a disk's word for it has a number."""
    return isinstance(error, PermissionError) and error.errno is None


@contextmanager
def plain_errors(where: str) -> Iterator[None]:
    """Turn a client's own exceptions into OSError, and keep secrets out of all messages."""
    try:
        yield
    except OSError as error:
        if _is_no_answer(error):
            raise OSError(f"{where}: {_in_words(error.__cause__)}") from None
        # The same kind and number, so that a caller can tell them apart.
        told = [_one_line(a) if isinstance(a, str) else a for a in error.args]
        kind = _lasting_kind(error) if type(error) is OSError and error.errno is None else None
        told = told if any(told) else [f"{where}: {_in_words(error)}"]
        kind = kind or type(error)
        if issubclass(kind, PermissionError) and error.errno is None and where not in str(told[0]):
            told = [f"{where}: {told[0]}"]  # some say no more than "Forbidden"
        raise kind(*told) from None
    except Exception as error:  # botocore's, aiohttp's, azure's and google's own
        line = _in_words(error)
        refused = "redential" in type(error).__name__ + line
        kind = PermissionError if refused else _lasting_kind(error) or OSError
        raise kind(f"{where}: {line}") from None


def _is_no_answer(error: OSError) -> bool:
    """Return True for a server that fails or does not answer, where a client says "not found" (HTTP)."""
    cause = error.__cause__
    failed = isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError)
    status = _status(cause)
    return isinstance(error, FileNotFoundError) and (failed or status in BUSY or status >= 500)


def _lasting_kind(error: BaseException | None) -> type[OSError] | None:
    """Return what an answer of the server means that will be the same in a while; None for others."""
    while error is not None:
        # gcsfs says it in words alone.
        forbidden = str(error).startswith("Forbidden")
        if forbidden or _status(error) in (401, 403):
            return PermissionError
        if _status(error) == 404:
            return FileNotFoundError
        error = error.__cause__ or error.__context__
    return None


def _status(error: BaseException | None) -> int:
    """Return the HTTP status that a client's error tells of; 0 for one that tells of none."""
    told = (str(getattr(error, name, "")) for name in ("status_code", "status", "code"))
    return next((int(status) for status in told if status.isdigit()), 0)


def _in_words(error: BaseException | None) -> str:
    """Return the first line of what an error says, or what it means where it says little."""
    if _status(error) == 429:
        return "the server takes no more requests for now (HTTP 429)"
    if line := _one_line(str(error).strip().split("\n")[0]):
        return line
    return "no answer in time" if isinstance(error, TimeoutError) else type(error).__name__


def _one_line(text: str) -> str:
    return without_secrets(" ".join(text.split()))


def without_secrets(text: str) -> str:
    """Return a text without the values of variables that look like credentials."""
    for name, value in os.environ.items():
        if len(value) >= 6 and SECRETS.search(name):
            text = text.replace(value, f"${name}")
    return text
