"""Weights that are named by their id on the Hub: from its cache, else fetched, else one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import GPT2Config, GPT2LMHeadModel

from instruct_core.errors import MissingError
from launch.runs import hub
from launch.runs.hub import hub_id, model_folder
from tests.conftest import TINY_RUN, launch

REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The Hub's cache with a small model under the name of GPT-2."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    repo = tmp_path / "hf" / "hub" / "models--openai-community--gpt2"
    snapshot = repo / "snapshots" / REVISION
    config = GPT2Config(n_layer=2, n_head=2, n_embd=16, n_positions=128)
    GPT2LMHeadModel(config).save_pretrained(snapshot)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(REVISION)
    return snapshot


@pytest.mark.parametrize(
    ("typed", "repo"),
    [
        ("gpt2", "openai-community/gpt2"),
        ("gpt2-xl", "openai-community/gpt2-xl"),
        ("someone/model-1.5", "someone/model-1.5"),
        ("here/model", ""),
        ("/tmp/model", ""),
        ("model", ""),
        ("a/b/c", ""),
        ("../model", ""),
        ("s3://bucket/model", ""),
    ],
)
def test_id_is_told_from_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: str, repo: str
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)

    assert hub_id(typed) == repo


def test_cached_model_is_taken_without_a_network(cached: Path, shard_set: Path) -> None:
    begins = launch(
        "finetune", "--init=gpt2", f"--shards={shard_set}", "--dry-run", "--cluster=local",
        *[flag for flag in TINY_RUN if not flag.startswith(("--model", "--init"))], cwd=cached,
    )  # fmt: skip

    assert begins.returncode == 0, begins.stderr
    assert "openai-community/gpt2 of the Hugging Face Hub" in begins.stdout
    assert f'"init": "{cached.resolve()}"' in begins.stdout


def test_cached_model_answers_under_its_id(cached: Path) -> None:
    answered = launch("chat", "--checkpoint=gpt2", "--prompt=x", "--max-new-tokens=2", cwd=cached)

    assert answered.returncode == 0, answered.stderr


def test_model_that_nobody_gives_is_one_line_with_the_command_that_fetches_it(
    cached: Path, shard_set: Path
) -> None:
    (cached / "model.safetensors").unlink()  # a download that was broken off

    refused = launch("finetune", "--init=gpt2", f"--shards={shard_set}", cwd=cached)

    assert refused.returncode == 2
    assert refused.stderr.startswith("error: --init openai-community/gpt2 is not here")
    assert "hf download openai-community/gpt2" in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_what_the_cache_lacks_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def snapshot(_repo: str, _wanted: object, only_cache: bool) -> Path | None:
        asked.append(only_cache)
        return None if only_cache else tmp_path

    monkeypatch.setattr(hub, "_snapshot", snapshot)

    assert model_folder("someone/model") == tmp_path
    assert asked == [True, False]

    monkeypatch.setattr(hub, "_snapshot", lambda _repo, _wanted, only_cache: None)
    with pytest.raises(MissingError, match="does not give it"):
        model_folder("someone/model")
