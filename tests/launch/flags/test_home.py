"""A person's own folders, and the person who has none: a bare number in a container."""

from __future__ import annotations

import pwd
from pathlib import Path
from typing import NoReturn

import pytest

from instruct_core.errors import ConfigError
from instruct_core.storage.names import without_tilde
from launch.checkup.site import check_can_write
from launch.cluster.bad_nodes import known_bad, record
from launch.flags import home as module
from launch.flags.home import own_folder
from launch.flags.site import Site, home_profile


class Homeless:
    """`Path` to somebody with a number that has no name."""

    @staticmethod
    def home() -> NoReturn:
        raise RuntimeError("Could not determine home directory.")


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Path", Homeless)
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "INSTRUCT_SITE", "INSTRUCT_BAD_NODES"):
        monkeypatch.delenv(name, raising=False)


def test_folder_is_where_the_variable_says_and_else_in_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    usual = own_folder("XDG_STATE_HOME", ".local/state")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "elsewhere"))

    assert usual == tmp_path / ".local" / "state" / "instruct-cluster"
    assert own_folder("XDG_STATE_HOME", ".local/state") == tmp_path / "elsewhere/instruct-cluster"


@pytest.mark.usefixtures("homeless")
def test_who_has_no_home_has_no_profile_and_no_record_of_nodes() -> None:
    assert (home_profile(), record(), known_bad()) == (None, None, [])
    assert Site.found() == Site()
    with pytest.raises(ConfigError, match=r"needs a home to write to.*INSTRUCT_SITE=FILE"):
        check_can_write()


def test_home_of_nobody_is_refused_by_the_path_that_names_it() -> None:
    name = "nobody-has-this-name"
    assert name not in {entry.pw_name for entry in pwd.getpwall()}

    with pytest.raises(ConfigError, match=f"Place ~{name}/runs cannot be used: nobody knows"):
        without_tilde(f"~{name}/runs")
