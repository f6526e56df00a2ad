"""A folder for Hugging Face that is not written to its end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from instruct_core.model.hugging_face import whole_or_nothing
from instruct_core.storage.store import Store


def test_file_that_is_there_just_when_ctrl_c_comes_goes_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the same command is refused later: its folder is not empty."""
    put = Store.put

    def put_and_interrupt(store: Store, name: str, views: Sequence[memoryview]) -> str:
        put(store, name, views)
        raise KeyboardInterrupt

    monkeypatch.setattr(Store, "put", put_and_interrupt)

    with pytest.raises(KeyboardInterrupt), whole_or_nothing(Store(tmp_path)) as write:
        write("config.json", [memoryview(b"{}")])

    assert not list(tmp_path.iterdir())


def test_file_of_somebody_else_stays(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("theirs")

    with pytest.raises(FileExistsError), whole_or_nothing(Store(tmp_path)) as write:
        write("config.json", [memoryview(b"{}")])

    assert (tmp_path / "config.json").read_text() == "theirs"
