"""Where a step's files lie, asked by its number and by its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from instruct_core.checkpoints.steps import committed_steps, folder_of, opened, saved_folders
from instruct_core.errors import ConfigError
from instruct_core.storage.store import Store
from tests.instruct_core.checkpoints.test_crash import begin, save


def test_newest_save_of_a_step_that_has_a_manifest_counts() -> None:
    files = (
        "step-00000001/manifest.json",
        "step-00000002/manifest.json",
        "step-00000002/attempt-0002-save-0001/manifest.json",
        "step-00000002/attempt-0010-save-0009/manifest.json",
        "step-00000002/attempt-0010-save-0010/manifest.json",
        "step-00000002/attempt-0011-save-0001/model.safetensors",
        "step-00000003/attempt-10000-save-0001/manifest.json",
        "step-00000003/attempt-9999-save-12345/manifest.json",
        "damaged-step-00000004-attempt-0000/manifest.json",
        "step-00000005/model.safetensors",
    )

    assert saved_folders(files) == {
        1: "step-00000001",
        2: "step-00000002/attempt-0010-save-0010",
        3: "step-00000003/attempt-10000-save-0001",
    }


@pytest.mark.parametrize("place", ["file://", "memory://"])
def test_place_of_a_step_is_opened_where_its_files_lie(tmp_path: Path, place: str) -> None:
    url = f"{place}{tmp_path}/run"
    save(begin(url), 1)

    for typed in (f"{url}/step-00000001", f"{url}/step-00000001/"):
        assert "model.safetensors" in opened(typed).names()
    assert opened(f"{url}/step-00000002").names() == []
    assert opened(f"{url}/other").url == f"{url}/other"


def test_place_of_one_save_is_refused_for_the_step() -> None:
    """What a run keeps beside its steps, as its tokenizer, would not be found from there."""
    url = "memory://one-save"
    save(begin(url), 1)
    folder = folder_of(Store(url), 1)

    with pytest.raises(
        ConfigError, match=f"is one save of a step. Name the step: {url}/step-00000001$"
    ):
        opened(f"{url}/{folder}")
    assert committed_steps(Store(url)) == [1]
