"""What a launch says and refuses before anything is written; nothing here trains but the desk's run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from launch.console.display import zone
from tests.conftest import TINY_RUN, launch
from tests.launch.played_slurm import PlayedSlurm
from tests.launch.test_errors import snapshot

OPEN = [word for word in TINY_RUN if "micro-batch" not in word]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, shard_set: Path) -> Path:
    """A folder with shards and a run `first` of two steps, whose micro-batch nobody typed."""
    desk = tmp_path_factory.mktemp("trained")
    shutil.copytree(shard_set, desk / "shards" / "small")
    words = ["--run=first", "--shards=shards/small", "--max-steps=2", "--tokens-per-step=256"]
    done = launch("finetune", *OPEN, *words, cwd=desk)
    assert done.returncode == 0, done.stderr
    return desk


def looked(desk: Path, *words: str) -> str:
    """Return what a dry run says."""
    done = launch("finetune", *words, "--dry-run", cwd=desk)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(desk: Path, verb: str, *words: str) -> str:
    """Return the one line with which a command is refused; nothing may change."""
    before = snapshot(desk)
    done = launch(verb, *words, cwd=desk)
    assert done.returncode == 2, done.stdout
    assert done.stderr.count("\n") == 1
    assert snapshot(desk) == before
    return done.stderr


def test_more_ranks_on_a_resume_take_another_micro_batch_than_was_chosen(trained: Path) -> None:
    said = looked(trained, "--run=first", "--gpus=2", "--max-steps=4")

    assert "2 CPU ranks" in said
    assert '"micro_batch_size": 2' in said


def test_run_goes_on_with_any_number_of_ranks_that_have_a_sequence_each(trained: Path) -> None:
    """Its steps have four."""
    words = ("--run=first", "--max-steps=4")

    three = looked(trained, *words, "--gpus=3")
    two = looked(trained, *words, "--gpus=2", "--micro-batch-size=1")

    assert "each takes 1 or 2 sequences a step, at most 2 at once" in three
    assert "; a step waits for those with 2\n" in three
    assert "each takes 2 micro-batches of 1 a step\n" in two
    line = refused(trained, "finetune", *words, "--gpus=5")
    assert "There must be at most 4 ranks, one for each sequence of a step" in line
    assert line.endswith("got 5. Use --gpus 4.\n")


@pytest.mark.parametrize("lost", ["checkpoints_instruct", "checkpoints_instruct/first/*"])
def test_run_whose_checkpoints_are_gone_does_not_start_over(
    trained: Path, desk: Path, lost: str
) -> None:
    copy = Path(shutil.copytree(trained, desk / "copy"))
    for path in copy.glob(lost):
        if path.name != "run.json":
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    said = refused(copy, "finetune", "--run=first", "--shards=shards/small", "--max-steps=4")

    assert said.startswith(f"error: Run {copy}/runs_instruct/first has saved step 2 before, and ")
    assert f" is in {copy}/checkpoints_instruct/first. It does not start over by itself: " in said


def test_named_run_goes_on_with_its_own_shards_among_others(trained: Path, desk: Path) -> None:
    copy = Path(shutil.copytree(trained, desk / "copy"))
    shutil.copytree(copy / "shards" / "small", copy / "shards" / "other")

    said = looked(copy, "--run=first", "--max-steps=4")

    assert f"rows of {copy}/shards/small" in said
    assert "--shards must name one of shards/other, shards/small" in refused(
        copy, "finetune", "--run=second", *TINY_RUN
    )


def test_settings_that_a_run_keeps_are_named_before_anything_is_advised(trained: Path) -> None:
    line = refused(trained, "finetune", "--run=first", "--tokens-per-step=100", "--max-steps=4")

    assert "cannot go on with other settings: --tokens-per-step is 256, got 100" in line
    assert "Use" not in line


def test_settings_that_follow_from_a_typed_one_are_not_named_beside_it(trained: Path) -> None:
    line = refused(trained, "finetune", "--run=first", "--lora=4", "--max-steps=4")

    assert "cannot go on with other settings: --lora is not given, got 4. Leave" in line


def test_new_run_is_called_new_and_close_names_are_named(trained: Path) -> None:
    words = ["--shards=shards/small", *TINY_RUN]

    assert "firsts, a new run. Perhaps you meant first." in looked(trained, "--run=firsts", *words)
    for name in ("other", "first2"):  # the second is of a series
        assert f"Run     {name}, a new run\n" in looked(trained, f"--run={name}", *words)
    assert "first, goes on from step 2" in looked(trained, "--run=first", "--max-steps=4")


@pytest.mark.parametrize("verb", ["status", "logs", "chat"])
def test_name_of_no_run_is_answered_with_a_close_one(trained: Path, verb: str) -> None:
    words = ["--run=firsts", "--prompt=Hi."] if verb == "chat" else ["firsts"]

    assert "Runs there: first. Perhaps you meant first." in refused(trained, verb, *words)


def test_rate_that_never_peaks_or_hardly_moves_random_weights_is_said(trained: Path) -> None:
    words = ["--run=n", "--shards=shards/small", "--model=tiny", "--init=random", "--seq-len=64"]

    said = looked(trained, *words, "--max-steps=50", "--tokens-per-step=512")
    usual = looked(
        trained, *words, "--max-steps=50", "--tokens-per-step=512", "--warmup-steps=5",
        "--learning-rate=1e-3",
    )  # fmt: skip

    assert "Note    the last step is 50, and --warmup-steps 100 are not over by then" in said
    assert "--learning-rate 2e-05 is for weights that know a language" in said
    assert "--warmup-steps" not in usual
    assert "weights that know a language" not in usual


def test_flags_that_mean_nothing_without_slurm_are_named(trained: Path, rows_file: Path) -> None:
    words = ["--time=2:00:00", "--mem=2G", "--setup=module load cuda", "--cluster=local"]

    said = looked(trained, "--run=first", "--max-steps=4", *words)
    made = launch(
        "preprocess", f"--source={rows_file}", "--out=other", *words, "--dry-run", cwd=trained
    )

    assert "\nNot used without Slurm: --time, --mem, --setup\n" in said
    assert "\nNot used without Slurm: --time, --mem, --setup\n" in made.stdout
    assert "Not used" not in looked(trained, "--run=first", "--max-steps=4")


def test_missing_shards_are_answered_with_those_that_are_there(trained: Path) -> None:
    parts = trained / "shards" / "answers.jsonl.parts"  # which have a manifest too
    parts.mkdir()
    (parts / "manifest.json").write_text("{}")

    line = refused(trained, "finetune", "--shards=shards/smalls", *TINY_RUN)
    alone = refused(trained, "finetune", "--shards=small", *TINY_RUN)

    assert "Shards shards/smalls are not there or not finished" in line
    for said in (line, alone):
        assert "Perhaps you meant shards/small. Sets there: shards/small." in said
    assert (
        "/launch/preprocess.py --source SOURCE --out shards/smalls" in line.partition("them: ")[2]
    )


def test_new_run_takes_no_folder_with_things_of_others(trained: Path) -> None:
    (trained / "home" / "mine").mkdir(parents=True)
    (trained / "home" / "mine" / "thesis.tex").touch()
    words = ["--run=mine", "--checkpoints=home", "--shards=shards/small", "--dry-run", *TINY_RUN]

    line = refused(trained, "finetune", *words)

    assert (
        f"Run mine cannot begin: its folder {trained}/home/mine is in use, with thesis.tex." in line
    )
    (trained / "home" / "mine" / "thesis.tex").unlink()
    for name in ("lock", "control-000001-stop.json", ".nfs1"):  # of a launcher that was killed
        (trained / "home" / "mine" / name).touch()
    assert looked(trained, *words[: -len(TINY_RUN) - 1], *TINY_RUN)


def test_file_of_rows_is_told_from_a_shard_set(trained: Path, rows_file: Path) -> None:
    line = refused(trained, "finetune", f"--shards={rows_file}", *TINY_RUN)

    assert f"--shards {rows_file} is a file, and no shard set" in line
    assert f"preprocess.py --source {rows_file} --out shards/rows" in line
    assert "Errno" not in line


@pytest.mark.parametrize("flag", ["checkpoints", "runs"])
def test_place_that_is_a_file_is_one_line_in_our_words(trained: Path, flag: str) -> None:
    (trained / "file").write_text("")

    line = refused(trained, "finetune", f"--{flag}=file", "--shards=shards/small", *TINY_RUN)

    assert "file" in line
    assert "Errno" not in line


@pytest.mark.parametrize("flag", ["checkpoints", "runs"])
def test_nothing_is_prepared_for_a_run_that_has_no_place(desk: Path, flag: str) -> None:
    (desk / "file").write_text("")

    line = refused(desk, "finetune", f"--{flag}=file/below", *TINY_RUN)

    assert f"--{flag}" in line
    assert not (desk / "shards").exists()


def test_shards_whose_tasks_failed_are_made_by_their_own_command(
    slurm: PlayedSlurm, desk: Path
) -> None:
    rows = '{"q": "a", "output": "b"}\n' * 400
    (desk / "my rows.jsonl").write_text(rows)
    words = ["--out=s", "--columns=instruction=q,output=output", "--limit-rows=300"]
    made = launch("preprocess", "--source=my rows.jsonl", *words, cwd=desk)
    assert made.returncode == 0, made.stderr
    slurm.change("1", JobState="FAILED")
    for task in (0, 1):
        folder = desk / "s/job/0000" / f"task-{task:05d}"
        folder.mkdir()
        outcome = {"start": "1", "error": "Disk on fire.", "traceback": "", "retry": True}
        (folder / "failed.json").write_text(json.dumps(outcome))

    line = refused(desk, "finetune", "--shards=s", *TINY_RUN)

    assert "2 tasks of job 1 failed: Disk on fire." in line
    assert (
        "/launch/preprocess.py --source 'my rows.jsonl' --out s "
        "--columns instruction=q,output=output --limit-rows 300"
    ) in line.partition("Make them: ")[2]


def test_shards_whose_tasks_never_start_are_not_waited_for(slurm: PlayedSlurm, desk: Path) -> None:
    made = launch("preprocess", "--source=builtin", "--out=s", "--limit-rows=9", cwd=desk)
    assert made.returncode == 0, made.stderr
    slurm.change("1", Reason="DependencyNeverSatisfied")

    assert "Shards s are not there or not finished" in refused(desk, "finetune", "--shards=s")


@pytest.mark.parametrize("verb", ["finetune", "preprocess"])
def test_folder_whose_name_slurm_would_misread_is_refused(
    slurm: PlayedSlurm, desk: Path, shard_set: Path, verb: str
) -> None:
    odd = desk / "100%j run%A"
    odd.mkdir()
    words = [f"--shards={shard_set}", "--run=r", *TINY_RUN]
    if verb == "preprocess":
        words = ["--source=builtin", "--limit-rows=9", "--out=s"]

    done = launch(verb, *words, cwd=odd)

    assert done.returncode == 2, done.stdout
    assert "must have no % in its path" in done.stderr
    assert slurm.jobs == []


def test_start_is_not_foretold_where_nobody_knows_it(
    slurm: PlayedSlurm, desk: Path, shard_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that waits for another; and Slurm's word for not knowing, a year from now."""
    words = [f"--shards={shard_set}", "--run=r", *TINY_RUN]

    assert "Expected start" not in looked(desk, *words)

    PlayedSlurm(desk / "soon", monkeypatch, start="2001-01-01T08:00:00")
    assert f"Expected start: 2001-01-01T08:00:00 {zone()}" in looked(desk, *words)
    made = launch("preprocess", "--source=builtin", "--limit-rows=9", "--out=s", cwd=desk)
    assert made.returncode == 0, made.stderr
    assert "Expected start" not in looked(desk, *words, "--after=1")


def test_follow_up_that_is_foretold_is_the_one_that_a_job_queues(
    slurm: PlayedSlurm, desk: Path, shard_set: Path
) -> None:
    scontrol = (slurm.folder / "scontrol").read_text()
    (slurm.folder / "scontrol").write_text(scontrol.replace("JobRequeue = 1", "JobRequeue = 0"))

    said = looked(desk, f"--shards={shard_set}", "--run=r", *TINY_RUN)

    assert "(JobRequeue=0)" in said
    assert "a follow-up job is chained (--dependency=afterany)" in said


def test_partition_with_small_old_gpus_gets_a_micro_batch_and_a_precision_that_fit(
    slurm: PlayedSlurm, desk: Path, shard_set: Path
) -> None:
    """So small that the model need not be large: its checkpoint must find room on this machine's disk."""
    slurm.gpus("gpu:tesla_v100-sxm2-8gb:4")
    words = [f"--shards={shard_set}", "--run=r", "--model=gpt2", "--init=random", "--gpus=4"]

    said = looked(desk, *words)

    assert "4 GPUs (in fp32: bf16 needs compute capability 8.0; --precision fp16 does not)" in said
    assert "micro-batches of 4 a step, the largest that fits a node of partition low" in said
    assert "Use --micro-batch-size 4." in refused(desk, "finetune", *words, "--micro-batch-size=8")
