"""launch/checkpoints.py as a person uses it: list, verify, prune, export."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from instruct_core.checkpoints.steps import committed_steps, step_name
from instruct_core.data.tokenizer import load_tokenizer
from instruct_core.errors import ConfigError
from instruct_core.model.weights import load_model
from instruct_core.storage.store import Store
from launch.flags.checkpoints import Prune
from launch.runs.checkpoints import prune
from tests.conftest import TINY_RUN, launch
from tests.launch.test_errors import snapshot


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, shard_set: Path) -> Path:
    cwd = tmp_path_factory.mktemp("trained")
    result = launch(
        "finetune", "--run=r", f"--shards={shard_set}", "--max-steps=12", *TINY_RUN, "--save-every=3",
        "--keep-checkpoints=9", "--eval-every=6", cwd=cwd,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return cwd


@pytest.fixture
def desk(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "desk")
    return tmp_path / "desk"


def run_of(desk: Path) -> Path:
    return desk / "checkpoints_instruct" / "r"


def damage(desk: Path, step: int) -> None:
    path = run_of(desk) / step_name(step) / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes(data)


def rows(output: str) -> dict[str, list[str]]:
    """Return the table's lines by their first word."""
    return {words[0]: words[1:] for line in output.splitlines() if (words := line.split())}


def test_ls_shows_every_checkpoint(desk: Path) -> None:
    result = launch("checkpoints", "ls", "r", cwd=desk)

    table = rows(result.stdout)
    assert result.returncode == 0
    assert table["step"] == ["size", "age", "val", "loss", "verified", "attempt"]
    assert [step for step in table if step.isdigit()] == ["3", "6", "9", "12"]
    assert table["6"][:2] == ["20.0", "MB"]
    assert "10." in " ".join(table["6"])


def test_verify_finds_a_flipped_bit_that_ls_does_not_look_for(desk: Path) -> None:
    damage(desk, 9)

    listed = launch("checkpoints", "ls", "r", cwd=desk)
    verified = launch("checkpoints", "verify", "r", cwd=desk)

    assert listed.returncode == 0
    assert "xxh3" not in listed.stdout
    assert verified.returncode == 1
    assert verified.stdout.count("every byte") == 3
    assert "step-00000009/model.safetensors is corrupt: xxh3 differs" in verified.stdout
    assert launch("checkpoints", "verify", "r", "--step=6", cwd=desk).returncode == 0


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
@pytest.mark.parametrize("more", [{"keep": 1}, {"damaged": True}])
def test_prune_of_who_may_not_remove_is_one_line_and_removes_nothing(
    desk: Path, monkeypatch: pytest.MonkeyPatch, number: int, more: dict[str, Any]
) -> None:
    def refuse(self: Store, *names: str) -> None:
        raise OSError(number, os.strerror(number), self.where(names[0]))

    for operation in ("move", "remove"):
        monkeypatch.setattr(Store, operation, refuse)
    (run_of(desk) / "damaged-step-00000003-attempt-0001").mkdir()
    before = snapshot(desk)

    with pytest.raises(ConfigError) as refused:
        prune(Prune(run="r", checkpoints=str(run_of(desk).parent), **more))

    assert str(refused.value) == (
        f"Run r does this for those who may write its folder, and {run_of(desk)} refuses: "
        f"{os.strerror(number)}. Ask who owns it."
    )
    assert snapshot(desk) == before


def test_prune_says_what_would_go_and_then_removes_it(desk: Path) -> None:
    store = Store(run_of(desk))

    dry = launch("checkpoints", "prune", "r", "--keep=1", "--keep-every=6", "--dry-run", cwd=desk)
    before = committed_steps(store)
    real = launch("checkpoints", "prune", "r", "--keep=1", "--keep-every=6", cwd=desk)

    assert "Would remove steps 3, 9; 6, 12 stay" in dry.stdout
    assert before == [3, 6, 9, 12]
    assert "Removed steps 3, 9, 40.1 MB; 6, 12 stay" in real.stdout
    nothing = launch("checkpoints", "prune", "r", "--keep=1", "--keep-every=6", cwd=desk)
    assert nothing.stdout == "No step is removed: 6, 12 stay\n"
    assert committed_steps(store) == [6, 12]


def test_prune_removes_nothing_for_the_sake_of_a_damaged_one(desk: Path) -> None:
    damage(desk, 12)

    result = launch("checkpoints", "prune", "r", "--keep=1", cwd=desk)

    assert result.returncode == 2
    assert "is corrupt: xxh3 differs from the manifest. It is set aside" in result.stderr
    assert committed_steps(Store(run_of(desk))) == [3, 6, 9]
    cleared = launch("checkpoints", "prune", "r", "--keep=1", "--damaged", cwd=desk)
    assert "Removed 1 damaged ones" in cleared.stdout
    assert [name for name in Store(run_of(desk)).names() if name.startswith("damaged")] == []


def test_exported_folder_is_a_hugging_face_model_with_its_tokenizer(desk: Path) -> None:
    damage(desk, 12)

    result = launch("checkpoints", "export", "r", "--out=model", cwd=desk)

    assert result.returncode == 0, result.stderr
    assert "Taking the one before" in result.stderr
    assert "Step 9 of run r" in result.stdout
    theirs = AutoModelForCausalLM.from_pretrained(desk / "model")
    ours = load_model(str(run_of(desk) / step_name(9)))
    assert torch.equal(theirs.transformer.wte.weight, ours.head_weight)
    text = "Zwölf Boxkämpfer jagen 12 übergroße Zwerge!\n\n### Response:\n"
    tokenizer = AutoTokenizer.from_pretrained(desk / "model")
    assert tokenizer(text).input_ids == load_tokenizer().encode(text)
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert tokenizer.eos_token_id == 50256
    (desk / "model").rename(desk / step_name(9))  # nor is it taken for half of a step by its name
    assert torch.equal(load_model(str(desk / step_name(9))).head_weight, ours.head_weight)


BAD = {
    "list r": "The first word must be one of ls, verify, prune, export, got 'list'",
    "ls": "RUN must be given",
    "ls nobody": "Run nobody is not there: no ",
    "ls ../r": "RUN must be a plain name",
    "verify r --step 4": "--step 4 is not there in ",
    "prune r --keep 0": "--keep must be at least 1, got 0",
    "prune r --keep-every -1": "--keep-every must be at least 0, got -1",
    "export r": "--out",
    "export r --out checkpoints_instruct": "is not empty. Give a new folder: nothing is overwritten",
    "export r --out checkpoints_instruct/r/run.json": "--out checkpoints_instruct/r/run.json cannot be",
    "export r --out s3://nobody/x": "--out s3://nobody/x cannot be used",
    "ls r --checkpoints s3://nobody/x": "--checkpoints s3://nobody/x cannot be used",
}


@pytest.mark.parametrize("words", BAD)
def test_bad_words_are_one_line(trained: Path, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")

    result = launch("checkpoints", *words.split(), cwd=trained)

    assert result.returncode == 2, result.stdout
    assert BAD[words] in result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1


def test_help_names_the_verbs(tmp_path: Path) -> None:
    result = launch("checkpoints", "--help", cwd=tmp_path)

    assert result.returncode == 0
    assert all(verb in result.stdout for verb in ("ls", "verify", "prune", "export"))
