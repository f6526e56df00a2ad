"""
The promises of a run, on real processes: bitwise resume, nothing lost, nothing replayed.

Each test trains the tiny model with the launcher that a person uses, and hits it from outside.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
from pathlib import Path

import pytest

from tests.conftest import (
    HANGS_SECONDS,
    events_of,
    launch,
    samples_of,
    start,
    wait_for,
    write_rows,
)
from tests.tiny_runs import (
    STEPS,
    arguments,
    checkpoint,
    copy_of,
    count,
    final_hashes,
    held,
    hit_at,
    line_of,
    losses,
    run_of,
    signal_a_rank,
    train,
)

GLOBAL_BATCH_SIZE = 4  # 256 tokens a step, 64 a sample


@pytest.fixture(scope="module")
def light_shards(tmp_path_factory: pytest.TempPathFactory, small_base: Path) -> Path:
    """256 rows in two shards: less than a run reads."""
    cwd = tmp_path_factory.mktemp("shards")
    write_rows(cwd / "rows.jsonl", 256)
    flags = ("--source=rows.jsonl", "--out=light", "--num-tasks=1", "--rows-per-shard=250")
    result = launch("preprocess", *flags, f"--tokenizer={small_base}", cwd=cwd)
    assert result.returncode == 0, result.stderr
    return cwd / "light"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, light_shards: Path) -> Path:
    cwd = tmp_path_factory.mktemp("undisturbed")
    train(cwd, light_shards, 2, "--dropout=0.1")
    return cwd


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory, light_shards: Path) -> Path:
    """The same run, hit by USR2, TERM and SIGKILL at random steps, each on one random rank."""
    cwd = tmp_path_factory.mktemp("interrupted")
    seed = int.from_bytes(os.urandom(4), "little")
    draw = random.Random(seed)
    steps = sorted(draw.sample(range(2, STEPS - 12), 3))  # the end must not come first
    print(f"seed {seed}: USR2, TERM and KILL at steps {steps}")
    warn, stop, kill = (
        lambda cwd, s=signum: signal_a_rank(cwd, s, draw)
        for signum in (signal.SIGUSR2, signal.SIGTERM, signal.SIGKILL)
    )
    launcher = start("finetune", *arguments(light_shards, 2, "--dropout=0.1"), cwd=cwd)
    hit_at(launcher, cwd, steps[0], warn)
    hit_at(launcher, cwd, steps[1], stop)
    launcher.communicate(timeout=HANGS_SECONDS)
    assert launcher.returncode == 130, "the run was not stopped"
    launcher = start("finetune", *arguments(light_shards, 2, "--dropout=0.1"), cwd=cwd)
    wait_for(lambda: count(cwd, "resumed") == 3, "the resume after the stop")
    hit_at(launcher, cwd, steps[2], kill)
    _, errors = launcher.communicate(timeout=HANGS_SECONDS)
    assert launcher.returncode == 0, errors
    return cwd


def test_interrupted_run_ends_like_an_undisturbed_one_bit_for_bit(
    undisturbed: Path, interrupted: Path
) -> None:
    assert final_hashes(interrupted) == final_hashes(undisturbed)
    assert samples_of(run_of(interrupted)) == samples_of(run_of(undisturbed))


def test_warned_run_loses_no_step(interrupted: Path) -> None:
    events = events_of(run_of(interrupted))

    warned = [event["step"] for event in events if event["event"] == "warned"]
    resumed = [event["step"] for event in events if event["event"] == "resumed"]

    assert len(warned) == 2
    assert resumed[1:3] == warned


def test_killed_run_loses_at_most_a_save_interval(undisturbed: Path, interrupted: Path) -> None:
    events = events_of(run_of(interrupted))

    saved = [e["step"] for e in events if e["event"] == "saved" and e["attempt"] <= 2]
    resumed = [event["step"] for event in events if event["event"] == "resumed"]

    assert resumed[3] == max(saved)
    saved = [e["step"] for e in events_of(run_of(undisturbed)) if e["event"] == "saved"]
    assert saved == [*range(5, STEPS, 5), STEPS], "the interval is what was asked for"


def test_curves_are_those_of_one_run(undisturbed: Path, interrupted: Path) -> None:
    assert losses(interrupted) == losses(undisturbed)
    assert sorted(losses(interrupted)) == list(range(1, STEPS + 1))


def test_logs_tell_of_all_attempts_on_this_machine_too(interrupted: Path) -> None:
    shown = launch("logs", "r", cwd=interrupted).stdout

    assert shown.count("rank 0 begins at step 0\n") == 1
    assert shown.count("rank 0 resumed step ") == 3
    assert shown.endswith(f"rank 0 finished step {STEPS}\n")


def test_samples_are_read_once_an_epoch_over_interruptions_and_world_sizes(
    tmp_path: Path, light_shards: Path, undisturbed: Path
) -> None:
    for gpus, step, signum in ((4, 6, signal.SIGTERM), (2, 14, signal.SIGINT)):
        launcher = start("finetune", *arguments(light_shards, gpus, "--dropout=0.1"), cwd=tmp_path)
        if signum == signal.SIGINT:  # Ctrl-C
            hit_at(launcher, tmp_path, step, lambda cwd, p=launcher: p.send_signal(signal.SIGINT))
        else:
            one = random.Random(1)
            hit_at(launcher, tmp_path, step, lambda c, d=one: signal_a_rank(c, signal.SIGTERM, d))
        _, errors = launcher.communicate(timeout=HANGS_SECONDS)
        assert launcher.returncode == 130, errors
    train(tmp_path, light_shards, 1, "--dropout=0.1")

    by_step = samples_of(run_of(tmp_path))
    order = [sample for step in range(STEPS) for sample in sorted(by_step[step])]
    epoch = max(order) + 1
    assert len(order) == STEPS * GLOBAL_BATCH_SIZE
    assert epoch < len(order), "the run must be longer than an epoch"
    counted = {sample: order.count(sample) for sample in range(epoch)}
    assert set(counted.values()) <= {1, 2}
    whole_steps = order[: epoch - epoch % GLOBAL_BATCH_SIZE]  # of the first epoch
    assert len(set(whole_steps)) == len(whole_steps)
    assert by_step == samples_of(run_of(undisturbed))


def test_damaged_checkpoint_is_named_and_the_one_before_serves(
    tmp_path: Path, light_shards: Path, undisturbed: Path
) -> None:
    cwd = copy_of(undisturbed, tmp_path)
    shutil.rmtree(checkpoint(cwd, STEPS))
    path = checkpoint(cwd, 35) / "state-00001-of-00002.safetensors"
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)

    result = train(cwd, light_shards, 2, "--dropout=0.1")

    assert "state-00001-of-00002.safetensors is corrupt: xxh3 differs" in result.stdout
    assert "Going on from step 30" in result.stdout
    assert final_hashes(cwd) == final_hashes(undisturbed)


def test_run_without_a_loadable_checkpoint_stops_and_says_why(
    tmp_path: Path, light_shards: Path, undisturbed: Path
) -> None:
    cwd = copy_of(undisturbed, tmp_path)
    for path in (cwd / "checkpoints_instruct" / "r").glob("step-*/model.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])
    flags = ("--dropout=0.1", "--max-steps=40", f"--decay-steps={STEPS}")

    result = launch("finetune", *arguments(light_shards, 1, *flags), cwd=cwd)

    assert result.returncode == 1
    assert "does not start over by itself" in result.stderr
    assert count(cwd, "started") == 2, "trying again would not help"


def test_second_launcher_attaches_and_finished_run_is_not_run_again(
    tmp_path: Path, light_shards: Path
) -> None:
    first = start("finetune", *arguments(light_shards, 1, "--max-steps=12"), cwd=tmp_path)
    with held(run_of(tmp_path)):
        second = start("finetune", "--run=r", cwd=tmp_path)
        said = line_of(second, "Run r is training already")
    for launcher in (first, second):
        launcher.communicate(timeout=HANGS_SECONDS)
    third = launch("finetune", "--run=r", cwd=tmp_path)

    assert (first.returncode, second.returncode, third.returncode) == (0, 0, 0)
    assert said
    assert "Run r is finished: step 12 of 12" in third.stdout
    assert count(tmp_path, "started") == 1


def test_save_that_a_killed_attempt_could_not_tell_of_is_told_by_the_next(
    tmp_path: Path, light_shards: Path, undisturbed: Path
) -> None:
    cwd = copy_of(undisturbed, tmp_path)
    shutil.rmtree(checkpoint(cwd, STEPS))
    ledger = run_of(cwd) / "attempt-0000.jsonl"
    told = ledger.read_text().partition('"event": "saved", "step": 35')[0].rpartition("\n")[0]
    ledger.write_text(told + '\n{"utc_seconds": 1, "event": "crashed", "error": "x"}\n')

    said = train(cwd, light_shards, 1, "--dropout=0.1").stdout

    assert "Step 35: saved by attempt 0, which was killed before it could say so" in said
    saves = [event for event in events_of(run_of(cwd)) if event["event"] == "saved"]
    assert [(event["attempt"], event["step"]) for event in saves][-2:] == [(0, 35), (1, 36)]
    table = launch("status", "r", cwd=cwd).stdout.splitlines()
    [first] = [line for line in table if line.split()[:1] == ["0"]]
    assert re.search(r" 0 +36 +1 step .* crashed: x$", first.rstrip())  # as far as it had come


def test_moved_project_goes_on_where_it_lies_now(tmp_path: Path, light_shards: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    shutil.copytree(light_shards, here / "shards" / "small")
    train(here, Path("shards/small"), 1, "--max-steps=5", "--decay-steps=10")
    shutil.copytree(here, there)

    result = launch("finetune", "--run=r", "--max-steps=10", cwd=there)

    assert result.returncode == 0, result.stderr
    assert "Going on from step 5" in result.stdout
    assert (there / "checkpoints_instruct" / "r" / "step-00000010").exists()
    assert not (here / "checkpoints_instruct" / "r" / "step-00000010").exists()


def test_launcher_with_another_place_for_its_ledger_is_no_second_writer(
    tmp_path: Path, light_shards: Path
) -> None:
    first = start("finetune", *arguments(light_shards, 1, "--max-steps=12"), cwd=tmp_path)
    with held(run_of(tmp_path)):
        second = launch("finetune", "--run=r", "--runs=elsewhere", cwd=tmp_path)
    first.communicate(timeout=HANGS_SECONDS)

    assert second.returncode == 2
    assert "Run r is training already" in second.stderr
    assert "--runs is " in second.stderr
    assert count(tmp_path, "started") == 1


def test_run_killed_while_a_save_is_written_beside_training_ends_with_the_same_bits(
    tmp_path: Path, light_shards: Path
) -> None:
    """A state large enough for it; the undisturbed run waits for each of its saves."""
    flags = ("--model=small-demo", "--max-steps=4", "--decay-steps=4", "--save-every=1",
             "--dropout=0.1", "--eval-every=100", "--seq-len=32", "--tokens-per-step=128")  # fmt: skip
    train(tmp_path / "whole", light_shards, 2, *flags, "--no-async-save")
    cwd = tmp_path / "killed"
    cwd.mkdir()
    folder = cwd / "checkpoints_instruct" / "r" / "step-00000002"

    launcher = start("finetune", *arguments(light_shards, 2, *flags), cwd=cwd)
    wait_for(lambda: folder.exists() or launcher.poll() is not None, "the second save")
    was_in_flight = not (folder / "manifest.json").exists()
    signal_a_rank(cwd, signal.SIGKILL, random.Random(1))
    said, errors = launcher.communicate(timeout=HANGS_SECONDS)

    assert launcher.returncode == 0, said + errors
    assert was_in_flight
    resumed = [event["step"] for event in events_of(run_of(cwd)) if event["event"] == "resumed"]
    assert resumed in ([0, 1], [0, 2])
    assert final_hashes(cwd, 4) == final_hashes(tmp_path / "whole", 4)
