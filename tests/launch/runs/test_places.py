"""What a person may type for a place, before anything is asked of a disk or a store."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from instruct_core.errors import ConfigError
from launch.checkup.doctor import look
from launch.flags.doctor import Doctor
from launch.runs.places import absolute, reachable

LATIN = os.fsdecode(b"sch\xf6n")


def test_path_becomes_whole_and_a_url_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to("there")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    assert absolute("link/x") == str(tmp_path / "there" / "x")
    assert absolute("~/x") == str(tmp_path / "home" / "x")
    assert absolute("s3://bucket/x") == "s3://bucket/x"


def test_folder_whose_name_is_no_utf8_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / LATIN).mkdir()
    monkeypatch.chdir(tmp_path / LATIN)

    for place in ("runs", f"../{LATIN}"):
        with pytest.raises(ConfigError, match=r"sch\\xf6n.*', is no UTF-8. Rename that folder"):
            absolute(place)
    with pytest.raises(ConfigError, match="is no UTF-8"):
        look(Doctor())
    assert absolute(str(tmp_path / "other")) == str(tmp_path / "other")
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    "place", ["s3://", "://", "gs:", "s3:///runs", "az:////x", "s3:/b/x", "gs:b"]
)
def test_url_without_a_bucket_is_no_folder_here(place: str) -> None:
    with pytest.raises(ConfigError, match=f"Place {place} cannot be used: it names no bucket"):
        absolute(place)


@pytest.mark.parametrize(
    "place", ["file:///tmp/x", "memory:///x", "a:b", "/a:", "s3://b", "a/b:/c", "./s3:b"]
)
def test_place_that_only_looks_like_one_is_taken(place: str) -> None:
    assert absolute(place)


@pytest.mark.parametrize(
    ("error", "begin", "names_keys"),
    [
        (PermissionError("s3://b: Access Denied"), "Check the URL, and the credentials", True),
        (OSError("s3://b: Could not connect to the endpoint"), "Try again in some minutes", False),
        (TimeoutError("s3://b: no answer in time"), "Try again in some minutes", False),
        (FileNotFoundError("s3://b: no such bucket"), "Check the URL, and the endpoint", False),
    ],
)
def test_credentials_are_spoken_of_where_a_store_refuses_them_and_nowhere_else(
    error: OSError, begin: str, names_keys: bool
) -> None:
    with pytest.raises(ConfigError) as refused, reachable("--shards", "s3://b"):
        raise error

    said = str(refused.value)
    reason = str(error).removeprefix("s3://b: ")  # the place is named once
    assert said.startswith(f"--shards s3://b cannot be used: {reason}. {begin}")
    assert ("credentials" in said) == names_keys


@pytest.mark.parametrize("where", ["s3://b/c: ", "s3://b/c/.try-1a: ", ""])
def test_place_that_refuses_us_is_named_once(where: str) -> None:
    with (
        pytest.raises(ConfigError, match=r"^--out s3://b/c cannot be used: Forbidden\. [^:]*"),
        reachable("--out", "s3://b/c"),
    ):
        raise PermissionError(f"{where}Forbidden")
