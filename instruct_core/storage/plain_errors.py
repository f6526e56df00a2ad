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

SECRETS = re.compile(r"KEY|SECRET|TOKEN|PASSWORD|CREDENTIAL|CONNECTION_STRING|SAS")


def may_pass(error: OSError) -> bool:
    """Return True for what may be over in a while: no answer, too busy, a broken connection."""
    lasting = (
        FileNotFoundError, FileExistsError, PermissionError, NotADirectoryError, IsADirectoryError,
    )  # fmt: skip
    return not isinstance(error, lasting) and error.errno != errno.EINVAL


@contextmanager
def plain_errors(where: str) -> Iterator[None]:
    """Turn a client's own exceptions into OSError, and keep secrets out of all messages."""
    try:
        yield
    except OSError as error:
        # The same kind and number, so that a caller can tell them apart.
        told = [without_secrets(a) if isinstance(a, str) else a for a in error.args]
        raise type(error)(*(told or ["no answer in time"])) from None
    except Exception as error:  # botocore's, aiohttp's, azure's and google's own
        lines = str(error).strip().splitlines() or [type(error).__name__]
        refused = "redential" in type(error).__name__ + lines[0]
        kind = PermissionError if refused else OSError
        raise kind(without_secrets(f"{where}: {lines[0]}")) from None


def without_secrets(text: str) -> str:
    """Return a text without the values of variables that look like credentials."""
    for name, value in os.environ.items():
        if len(value) >= 6 and SECRETS.search(name):
            text = text.replace(value, f"${name}")
    return text
