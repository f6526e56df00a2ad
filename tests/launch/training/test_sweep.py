"""launch/sweep.py: runs that differ in some settings, trained and compared."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from instruct_core.errors import ConfigError
from launch.flags.finetune import Finetune
from launch.flags.sweep import Sweep, parse_sweep
from launch.training import sweep as sweeping
from tests.conftest import TINY_RUN, launch
from tests.launch.test_errors import snapshot


def names(*words: str) -> list[str]:
    return [run.name for run in parse_sweep(words, usage=None)[1]]


def test_each_combination_is_a_run_with_its_values_in_its_name() -> None:
    words = ("lr", "--over", "learning-rate=1e-5,3e-5", "--over=seed=1,2", "--gpus", "2")

    flags, runs, _ = parse_sweep(words, usage=None)

    assert flags.name == "lr"
    assert [run.name for run in runs] == [
        "lr-learning-rate-1e-5-seed-1",
        "lr-learning-rate-1e-5-seed-2",
        "lr-learning-rate-3e-5-seed-1",
        "lr-learning-rate-3e-5-seed-2",
    ]
    recipe = runs[1].flags.recipe
    assert (recipe.learning_rate, recipe.seed, runs[1].flags.gpus) == (1e-5, 2, 2)
    assert runs[1].arguments == [
        "--gpus", "2", "--learning-rate=1e-5", "--seed=2", "--run=lr-learning-rate-1e-5-seed-2",
    ]  # fmt: skip


def test_value_that_is_no_name_makes_one() -> None:
    assert names("i", "--over", "init=bases/a, random") == ["i-init-bases-a", "i-init-random"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "NAME must be given"),
        ("--over seed=1 lr", "NAME must be given"),
        ("../x --over seed=1", "NAME must be a plain name"),
        ("lr --over seed", "--over must be FLAG=VALUE,VALUE, as in learning-rate=1e-5,3e-5, got 'seed'."),
        ("lr --over seed=1,,2", "got 'seed=1,,2'"),
        ("lr --over =1", "got '=1'"),
        ("lr --over", "--over takes a value, got none"),
        ("lr --over seed=1,1", "has a value twice"),
        ("lr --over seed=1 --over seed=2", "--over --seed=... is given twice"),
        ("lr --over seed=1 --seed 3", "--seed is given, and --over seed=1 too"),
        ("lr --over seed=1 --run mine", "--run is chosen here"),
        ("lr --over run=a,b", "--run is chosen by the sweep"),
        ("lr --over nope=1", "There is no flag --nope"),
        ("lr --over seed=one", "--seed takes a whole number, got one"),
        ("lr --over learning-rate=1e-4,2", "--learning-rate must be more than 0 and at most 1"),
        ("lr --over init=a/b,a-b", "would have one name"),
        ("lr --ovr learning-rate=1,2", "There is no flag --ovr. Perhaps you meant --over."),
        ("lr --max-steps 9 --ovr seed=1", "There is no flag --ovr. Perhaps you meant --over."),
        ("lr --shrds x", "There is no flag --shrds. Perhaps you meant --shards."),
        ("lr --shards x", "--shards is for training, and without --over nothing is trained"),
        ("lr --over seed=1 --json", "--json is for comparing"),
        (f"lr --over seed={','.join(map(str, range(1001)))}", "at most 1,000 runs, got 1,001"),
    ],
)  # fmt: skip
def test_what_makes_no_sweep_is_refused_before_anything_is_begun(words: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_sweep(words.split(), usage=None)

    assert said in str(refused.value)


def test_switch_of_its_own_is_none_of_finetune() -> None:
    assert not parse_sweep(["lr", "--no-json"], usage=None)[0].json


def test_sweep_trains_what_has_not_ended_and_shows_the_best_first(
    tmp_path: Path, light_shards: Path
) -> None:
    words = (
        f"--shards={light_shards}",
        "--max-steps=2",
        "--eval-every=2",
        "--cluster=local",
        *TINY_RUN,
    )
    over = ("--over", "loss-on=all,response")
    dry = launch("sweep", "lr", *over, *words, "--dry-run", cwd=tmp_path)
    assert (dry.returncode, snapshot(tmp_path)) == (0, {}), dry.stderr
    trained = launch("sweep", "lr", *over, *words, cwd=tmp_path)
    again = launch("sweep", "lr", *over, *words, cwd=tmp_path)
    compared = launch("sweep", "lr", cwd=tmp_path)
    found = json.loads(launch("sweep", "lr", "--json", cwd=tmp_path).stdout)
    none = launch("sweep", "other", cwd=tmp_path)

    assert trained.returncode == again.returncode == compared.returncode == 0, trained.stderr
    assert trained.stdout.count("finished\n") == 2
    assert again.stdout.count("is finished: step 2 of 2") == 2
    rows = found["runs"]
    assert {row["run"]: row["settings"]["loss_on"] for row in rows} == {
        "lr-loss-on-all": "all", "lr-loss-on-response": "response",
    }  # fmt: skip
    losses = [row["results"]["best val loss"] for row in rows]
    assert losses == sorted(losses)
    assert losses[0] < losses[1]
    table = [line.split() for line in compared.stdout.splitlines()]
    assert table[0][:2] == ["run", "loss-on"]
    expected = [[row["run"], f"{loss:.4f}"] for row, loss in zip(rows, losses, strict=True)]
    assert [[line[0], line[-1]] for line in table[1:3]] == expected
    assert f"--run {rows[0]['run']} --step best" in compared.stdout
    assert (none.returncode, none.stderr.count("\n")) == (2, 1)
    assert "Sweep other is not there: no run in" in none.stderr


@pytest.mark.parametrize(
    ("codes", "begun", "expected"), [((1, 0, 0), 3, 1), ((0, 130, 0), 2, 130), ((0, 0, 0), 3, 0)]
)
def test_run_that_fails_keeps_no_other_from_being_trained_and_ctrl_c_does(
    codes: Sequence[int], begun: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str | None] = []

    def finetune(flags: Finetune, arguments: Sequence[str]) -> int:
        asked.append(flags.run)
        return codes[len(asked) - 1]

    monkeypatch.setattr(sweeping, "finetune", finetune)
    monkeypatch.setattr(sweeping, "show_results", lambda *_: None)
    flags, runs, shared = parse_sweep(["s", "--over", "seed=1,2,3"], usage=None)

    assert sweeping.sweep(flags, runs, shared) == expected
    assert asked == [run.name for run in runs[:begun]]


def test_run_that_cannot_be_begun_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def finetune(flags: Finetune, arguments: Sequence[str]) -> int:
        raise ConfigError("--gpus must be 1.")

    monkeypatch.setattr(sweeping, "finetune", finetune)
    _, runs, shared = parse_sweep(["s", "--over", "seed=1"], usage=None)

    with pytest.raises(ConfigError, match=r"^Run s-seed-1: --gpus must be 1\.$"):
        sweeping.sweep(Sweep("s"), runs, shared)
