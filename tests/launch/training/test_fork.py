"""A run that begins with a step of another one: which step, what it keeps, what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from instruct_core.checkpoints.loader import load_step
from instruct_core.checkpoints.steps import read_manifest, step_name
from instruct_core.config import TrainConfig, from_json
from instruct_core.errors import ConfigError, InstructError, RunConflictError
from instruct_core.storage.documents import seal
from instruct_core.storage.store import Store
from instruct_core.train.beginning import begin
from launch.flags.finetune import Finetune, check_flags
from launch.runs.run import Run
from launch.training.fork import forked_step
from tests.conftest import TINY_RUN, launch
from tests.launch.training.test_start import looked, refused

FORK = ["--run=second", "--shards=shards/small", "--seq-len=64", "--tokens-per-step=512",
        "--micro-batch-size=2", "--warmup-steps=0", "--max-steps=2"]  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, shard_set: Path) -> Path:
    """
    A folder with shards, a run `first` whose best step is not its newest, and `second`, forked from its
    best step with its moments.
    """
    desk = tmp_path_factory.mktemp("trained")
    shutil.copytree(shard_set, desk / "shards" / "small")
    words = [
        "--run=first",
        "--shards=shards/small",
        "--max-steps=3",
        "--save-every=1",
        "--eval-every=2",
    ]
    done = launch("finetune", *TINY_RUN[:-2], *words, cwd=desk)
    assert done.returncode == 0, done.stderr
    spoil_loss(desk, step=3)
    done = launch("finetune", *FORK, "--init=run:first@best", "--keep-optimizer", cwd=desk)
    assert done.returncode == 0, done.stderr
    assert "from step 2 of run first" in done.stdout
    return desk


def spoil_loss(desk: Path, step: int) -> None:
    """Make a step the worst by validation loss."""
    store = Store(run_of(desk, "first"))
    manifest = read_manifest(store, step)
    worse = replace(manifest, progress=replace(manifest.progress, val_loss=99.0))
    store.replace(f"{step_name(step)}/manifest.json", seal(worse.document))


@pytest.fixture
def desk(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "desk"))


def run_of(desk: Path, name: str) -> Path:
    return desk / "checkpoints_instruct" / name


def config_of(desk: Path) -> TrainConfig:
    document = json.loads((run_of(desk, "second") / "run.json").read_text())
    place = str(run_of(desk, "first") / step_name(2))
    return replace(from_json(document["config"], "run.json"), init=place)


def test_fork_begins_with_the_weights_and_the_moments_of_the_step(desk: Path) -> None:
    step = load_step(Store(run_of(desk, "first")), 2)

    beginning = begin(config_of(desk), None)

    weights = beginning.model.state_dict()
    assert weights.keys() == step.model.keys()
    assert all(torch.equal(weights[name], value) for name, value in step.model.items())
    assert beginning.moments.keys() == step.optimizer.keys()
    assert all(torch.equal(beginning.moments[n], value) for n, value in step.optimizer.items())


def test_fork_counts_its_own_steps_and_goes_on_from_the_moments(desk: Path) -> None:
    first = load_step(Store(run_of(desk, "first")), 2)

    second = load_step(Store(run_of(desk, "second")), 2)

    assert second.manifest.progress.samples_seen == 2 * 512 // 64
    for name, value in second.optimizer.items():
        if name.startswith("step/"):
            assert value == first.optimizer[name] + 2


def test_fork_without_its_moments_begins_with_none(desk: Path) -> None:
    assert not begin(replace(config_of(desk), keep_optimizer=False), None).moments


def test_step_and_hash_are_part_of_what_a_fork_keeps_for_life(desk: Path) -> None:
    identity = read_manifest(Store(run_of(desk, "second")), 2).identity

    assert identity is not None
    assert identity["init_step"] == 2
    assert len(identity["init_xxh3"]) == 32
    assert identity["keep_optimizer"] is True


def test_run_without_a_fork_keeps_what_it_kept_before_there_were_forks(desk: Path) -> None:
    identity = read_manifest(Store(run_of(desk, "first")), 2).identity or {}
    config = json.loads((run_of(desk, "first") / "run.json").read_text())["config"]

    assert not {"init_step", "init_xxh3", "keep_optimizer"} & (identity.keys() | config.keys())


def test_weights_that_were_replaced_since_are_no_beginning(desk: Path) -> None:
    folder = run_of(desk, "first")
    shutil.rmtree(folder / step_name(2))
    (folder / step_name(3)).rename(folder / step_name(2))

    with pytest.raises(RunConflictError, match=r"are not those that run second was begun with"):
        begin(config_of(desk), None)


def test_same_command_goes_on_though_the_best_step_is_another_one_now(desk: Path) -> None:
    spoil_loss(desk, step=2)

    said = looked(desk, *FORK[:-1], "--init=run:first@best", "--keep-optimizer", "--max-steps=3")

    assert "second, goes on from step 2" in said
    assert f"first/{step_name(2)}" in said


def test_fork_that_has_begun_needs_its_source_no_more(desk: Path) -> None:
    shutil.rmtree(run_of(desk, "first"))

    assert "goes on from step 2" in looked(desk, "--run=second", "--max-steps=3")


def test_moments_of_steps_of_another_size_are_told(desk: Path) -> None:
    words = ["--run=third", "--shards=shards/small", "--seq-len=64", "--init=run:first",
             "--keep-optimizer"]  # fmt: skip

    said = looked(desk, *words, "--tokens-per-step=256")

    assert "from step 3 of run first" in said
    assert "--tokens-per-step is 256, and the moments of run first are of steps of 512" in said
    assert "moments of run" not in looked(desk, *words, "--tokens-per-step=512")


REFUSED = {
    "run:nobody": "Run nobody is not there: no ",
    "run:first@7": "--init run:first@7 is not there in ",
    "run:first@last": "--init run:first@last must end in @newest, @best or @ and the number",
    "run:first@": "--init run:first@ must end in @newest, @best or @ and the number of a step, got @: a "
    "variable in it may be empty.",
    "run:first@-1": "--init run:first@-1 must end in @newest, @best or @ and the number",
    "run:": "--init run: must name a run of ",
    "run:@best": "--init run:@best must name a run of ",
    "run:../first": "--init run:../first must name a run of ",
    "run:third": "--init run:third is a step of the run itself",
}


@pytest.mark.parametrize("typed", REFUSED)
def test_step_that_cannot_be_begun_with_is_refused(trained: Path, typed: str) -> None:
    with pytest.raises(InstructError) as refused:
        forked_step(typed, Run.named("third", str(trained / "checkpoints_instruct")))

    assert str(refused.value).startswith(REFUSED[typed])


def test_moments_of_what_is_no_run_are_refused() -> None:
    with pytest.raises(ConfigError, match="--keep-optimizer needs --init run:NAME, got random"):
        check_flags(Finetune(init="random", keep_optimizer=True))


def test_another_beginning_of_a_run_that_has_begun_is_one_line(desk: Path) -> None:
    line = refused(desk, "finetune", "--run=second", "--max-steps=3", "--init=run:first@3")

    assert "cannot go on with other settings: --init is " in line
    assert line.count(step_name(2)) == line.count(step_name(3)) == 1
    assert "--init-" not in line
