"""What a client says little of is a line that says it all, and no answer is not taken for another."""

from __future__ import annotations

import pytest
from fsspec.exceptions import FSTimeoutError

from instruct_core.storage.plain_errors import may_pass, plain_errors

BUSY = r"^https://h/rows: the server takes no more requests for now \(HTTP 429\)$"


class StatusError(Exception):
    """As clients raise it: aiohttp has a status, gcsfs a code, azure a status_code."""

    def __init__(self, name: str, status: object) -> None:
        super().__init__(f"{status}, message='', url='https://h/rows'")
        setattr(self, name, status)


def raised(error: Exception, cause: Exception | None = None) -> OSError:
    """Return what becomes of an error."""
    with pytest.raises(OSError, match=r".") as caught, plain_errors("https://h/rows"):
        raise error from cause
    return caught.value


@pytest.mark.parametrize("error", [TimeoutError(), TimeoutError(""), FSTimeoutError()])
def test_silence_is_told_with_its_place(error: Exception) -> None:
    told = raised(error)

    assert isinstance(told, TimeoutError)
    assert str(told) == "https://h/rows: no answer in time"


def test_server_that_is_silent_is_not_one_without_the_file() -> None:
    told = raised(FileNotFoundError("https://h/rows"), TimeoutError())

    assert may_pass(told)
    assert str(told) == "https://h/rows: no answer in time"


def test_error_without_a_word_is_told_by_its_kind() -> None:
    assert str(raised(ConnectionResetError())) == "https://h/rows: ConnectionResetError"
    assert str(raised(ValueError())) == "https://h/rows: ValueError"


def test_refusal_without_a_place_is_told_with_its_place() -> None:
    told = raised(PermissionError("Forbidden"))

    assert (str(told), told.errno) == ("https://h/rows: Forbidden", None)
    assert str(raised(PermissionError("https://h/rows: no"))) == "https://h/rows: no"
    assert str(raised(PermissionError(13, "Permission denied"))) == "[Errno 13] Permission denied"


@pytest.mark.parametrize(
    ("name", "status"), [("status", 429), ("code", 429), ("code", "429"), ("status_code", 429)]
)
def test_server_that_was_asked_too_often_is_told_as_that_and_asked_again(
    name: str, status: object
) -> None:
    for told in (
        raised(StatusError(name, status)),
        raised(FileNotFoundError("https://h/rows"), StatusError(name, status)),
    ):
        assert may_pass(told)
        with pytest.raises(OSError, match=BUSY):
            raise told


@pytest.mark.parametrize(
    ("status", "kind"), [(403, PermissionError), (401, PermissionError), (404, FileNotFoundError)]
)
def test_answer_that_will_be_the_same_is_no_silence(status: int, kind: type[OSError]) -> None:
    for name in ("status", "code", "status_code"):
        assert type(raised(StatusError(name, status))) is kind
    assert type(raised(FileNotFoundError("rows"), StatusError("status", 404))) is FileNotFoundError
