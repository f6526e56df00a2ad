"""A run that nobody named is called by its base and its shards."""

from __future__ import annotations

import errno
import json
import re
from contextlib import nullcontext
from pathlib import Path

import pytest

from instruct_core.config import TrainConfig, to_json
from instruct_core.errors import ConfigError
from launch.flags.finetune import Finetune
from launch.training import naming
from launch.training.naming import default_name


def named(init: str | None, model: str | None = None) -> str:
    return default_name(Finetune(init=init, model=model), "/data/shards/alpaca")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "My model (1B)"
    place.mkdir()
    return place


def test_gpt2_is_called_gpt2_whatever_its_folder(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"n_head": 2}))
    without_type = named(str(folder))
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2"}))

    assert named(str(folder)) == without_type == "gpt2-alpaca"
    assert named(None) == named("random") == named("run:other") == "gpt2-alpaca"
    assert named("random", model="tiny") == "tiny-alpaca"


def test_base_of_another_family_is_called_by_its_folder(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))

    assert named(f"{folder}/") == "My-model-1B--alpaca"


@pytest.mark.parametrize(
    ("error", "is_over"),
    [
        (OSError(errno.ESTALE, "Stale file handle"), False),
        (OSError("s3://b/base: Could not connect"), False),  # as a bucket says it
        (OSError(errno.ENAMETOOLONG, "File name too long"), True),
    ],
)
def test_base_that_cannot_be_looked_at_now_gives_no_run_another_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, is_over: bool
) -> None:
    def refuse(place: str) -> None:
        raise error

    monkeypatch.setattr(naming, "opened", refuse)

    with nullcontext() if is_over else pytest.raises(OSError, match=re.escape(str(error))):
        assert named(str(folder)) == "gpt2-alpaca"


def test_step_of_another_family_is_called_by_its_run(tmp_path: Path) -> None:
    step = tmp_path / "first" / "step-00000300"
    step.mkdir(parents=True)
    (step / "config.json").write_text(json.dumps({"model_type": "qwen3"}))
    (tmp_path / "first" / "run.json").write_text("{}")

    assert named(str(step)) == "first-alpaca"


def test_fork_is_called_by_the_base_of_the_run_that_it_begins_with(
    folder: Path, tmp_path: Path
) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    for run, init, model in (("llama", str(folder), ""), ("tiny", "random", "tiny")):
        config = TrainConfig(run, "s", str(tmp_path), "r", init, model, "f")
        (tmp_path / run).mkdir()
        (tmp_path / run / "run.json").write_text(json.dumps({"config": to_json(config)}))

    def forked(init: str) -> str:
        return default_name(Finetune(init=init, checkpoints=str(tmp_path)), "/data/shards/alpaca")

    assert forked("run:llama") == forked("run:llama@best") == "My-model-1B--alpaca"
    assert forked("run:tiny@30") == "tiny-alpaca"
    assert forked("run:none") == forked("run:../x") == "gpt2-alpaca"


@pytest.mark.parametrize("content", [None, "no json", "[]"])
def test_base_that_cannot_be_read_is_left_to_who_loads_it(
    folder: Path, content: str | None
) -> None:
    if content is not None:
        (folder / "config.json").write_text(content)

    assert named(str(folder)) == "gpt2-alpaca"
    assert named(str(folder / "missing")) == "gpt2-alpaca"


@pytest.mark.parametrize("shards", ["/data/my shards", f"/data/{'x' * 250}"])
def test_name_that_shards_do_not_make_must_be_given(shards: str) -> None:
    with pytest.raises(ConfigError, match=r"--run must be given: 'gpt2-.* of --shards /data/"):
        default_name(Finetune(), shards)
