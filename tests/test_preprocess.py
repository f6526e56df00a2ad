"""Preprocessing as a person runs it: any number of tasks, killed, repeated, with other sources."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from instruct_core.data.reading import WORTH_BYTES
from instruct_core.data.shard_plan import BY_PLACE, ShardPlan
from instruct_core.data.shards import ShardSet, is_written, write_shard
from instruct_core.data.tokenizer import load_tokenizer
from instruct_core.storage.store import Store
from tests.conftest import environment, launch, write_rows

KILLED_AT = """
import os, signal, sys
from instruct_core.storage import disk
from jobs.preprocess import PreprocessJob

calls, kill_at = 0, int(sys.argv[2])
real = disk.os.fsync

def fsync(descriptor):
    global calls
    calls += 1
    if calls == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
    real(descriptor)

disk.os.fsync = fsync
os.environ |= {"SUBMITIT_EXECUTOR": "local", "SUBMITIT_LOCAL_JOB_ID": "1"}
PreprocessJob(sys.argv[1], num_tasks=1)()
"""


def files_of(shards: Path) -> dict[str, bytes]:
    """Return what the shards and their manifest are made of."""
    paths = [shards / "manifest.json", *shards.glob("train/*"), *shards.glob("val/*")]
    return {str(path.relative_to(shards)): path.read_bytes() for path in paths if path.is_file()}


def preprocess(cwd: Path, *arguments: str) -> str:
    """Prepare in one task, if not told otherwise, and return what was said."""
    result = launch("preprocess", "--num-tasks=1", *arguments, cwd=cwd)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_any_number_of_tasks_makes_the_same_files(
    tmp_path: Path, rows_file: Path, shard_set: Path
) -> None:
    for num_tasks in (3, 8):  # shard_set was made by one
        preprocess(
            tmp_path, f"--source={rows_file}", f"--out=t{num_tasks}", f"--num-tasks={num_tasks}"
        )

    assert files_of(tmp_path / "t3") == files_of(shard_set)
    assert files_of(tmp_path / "t8") == files_of(shard_set)


@pytest.fixture(scope="module")
def long_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows that are worth several processes, the last with a column of its own."""
    path = write_rows(tmp_path_factory.mktemp("long") / "rows.jsonl", 6000, words=40)
    with path.open("a") as file:
        file.write('{"instruction": "Say", "output": "it.", "late": 1}\n')
    assert path.stat().st_size > WORTH_BYTES
    return path


def test_forks_make_the_files_that_tasks_make_and_start_none(
    tmp_path: Path, long_file: Path
) -> None:
    preprocess(tmp_path, f"--source={long_file}", "--out=forks", "--num-tasks=3",
               "--array-parallelism=3")  # fmt: skip
    preprocess(tmp_path, f"--source={long_file}", "--out=tasks", "--cluster=debug")

    assert files_of(tmp_path / "forks") == files_of(tmp_path / "tasks")
    assert json.loads((tmp_path / "forks" / "manifest.json").read_text())["unread"] == ["late"]
    assert not (tmp_path / "forks" / "job").exists()


def test_bad_row_behind_all_others_leaves_no_shard(tmp_path: Path, long_file: Path) -> None:
    shutil.copy(long_file, tmp_path / "rows.jsonl")
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write('{"instruction": "Say", "output": 3}\n')

    result = launch("preprocess", "--source=rows.jsonl", "--out=s", cwd=tmp_path)

    assert result.returncode == 2
    assert result.stderr.strip() == (
        "error: Row rows.jsonl:6002 cannot be used: column output is a number, expected text. Fix it, or "
        "pass --skip-bad-rows."
    )
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_task_killed_at_any_write_leaves_nothing_that_passes_for_a_shard(
    tmp_path: Path, shard_set: Path
) -> None:
    shards = tmp_path / "set"
    shards.mkdir()
    shutil.copy(shard_set / "plan.json", shards)
    store = Store(shards)
    plan = ShardPlan.load(store)
    env = environment() | {"INSTRUCT_JOB": str(tmp_path), "INSTRUCT_START": "0000"}
    for kill_at in range(1, 100):
        command = [sys.executable, "-c", KILLED_AT, str(shards), str(kill_at)]
        killed = subprocess.run(command, env=env, check=False, capture_output=True)
        if killed.returncode == 0:
            break
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        # What has a shard's name is a whole shard, and there is no manifest before the last one.
        for path in [*shards.glob("train/[0-9]*"), *shards.glob("val/[0-9]*")]:
            assert path.read_bytes() == (shard_set / path.relative_to(shards)).read_bytes()
        if (shards / "manifest.json").exists():
            assert all(is_written(store, plan, shard) for shard in range(plan.num_parts))

    assert kill_at > 6, "the task was killed at every write of its shards"
    assert files_of(shards) == files_of(shard_set)


def test_second_run_rewrites_nothing(tmp_path: Path, rows_file: Path, shard_set: Path) -> None:
    shutil.copytree(shard_set, tmp_path / "s")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "s").rglob("*")}

    said = preprocess(tmp_path, f"--source={rows_file}", "--out=s", "--num-tasks=7")

    assert "complete: nothing to do" in said
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "s").rglob("*")} == before


@pytest.mark.parametrize("damage", ["cut", "flip", "gone"])
def test_damaged_shard_alone_is_made_again(
    tmp_path: Path, rows_file: Path, shard_set: Path, damage: str
) -> None:
    shards = Path(shutil.copytree(shard_set, tmp_path / "s"))
    path = shards / "train" / "00001.safetensors"
    data = bytearray(path.read_bytes())
    data[-7] ^= 1
    path.write_bytes(data if damage == "flip" else data[:-1])
    if damage == "gone":
        path.unlink()
    others = {p: p.stat().st_mtime_ns for p in shards.glob("*/0000[02].safetensors")}

    said = preprocess(tmp_path, f"--source={rows_file}", "--out=s")

    assert files_of(shards) == files_of(shard_set)
    assert {p: p.stat().st_mtime_ns for p in others} == others
    assert damage == "gone" or "Shard 1 in" in said


def test_changed_source_is_named_and_nothing_old_remains(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 600)
    preprocess(tmp_path, "--source=rows.jsonl", "--out=s")
    rows.write_text("".join(rows.read_text().replace("Say", "Spell").splitlines(True)[:300]))

    said = preprocess(tmp_path, "--source=rows.jsonl", "--out=s")

    assert "Changed since these shards were made: source: ['rows.jsonl (xxh3" in said
    assert len(list((tmp_path / "s" / "train").iterdir())) == 2
    preprocess(tmp_path, "--source=rows.jsonl", "--out=fresh")
    assert files_of(tmp_path / "s") == files_of(tmp_path / "fresh")


def test_changed_template_is_named(tmp_path: Path, rows_file: Path, shard_set: Path) -> None:
    shutil.copytree(shard_set, tmp_path / "s")
    plan = tmp_path / "s" / "plan.json"
    plan.write_text(plan.read_text().replace("alpaca-headings-1", "alpaca-headings-0"))

    said = preprocess(tmp_path, f"--source={rows_file}", "--out=s")

    assert "Changed since these shards were made: template: alpaca-headings-0" in said


def test_bad_rows_are_skipped_and_listed_when_asked(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 40)
    rows.write_text(rows.read_text() + "oops\n")

    said = preprocess(tmp_path, "--source=rows.jsonl", "--out=s", "--skip-bad-rows")

    manifest = json.loads((tmp_path / "s" / "manifest.json").read_text())
    assert "skipped rows.jsonl:41: not JSON" in said
    assert manifest["num_bad_rows"] == 1
    assert manifest["train_rows"] + manifest["val_rows"] == 40


def test_shards_begun_with_the_split_by_place_are_finished_with_it(
    tmp_path: Path, rows_file: Path, shard_set: Path
) -> None:
    store = Store(tmp_path / "s")
    begun = replace(ShardPlan.load(Store(shard_set)), split=BY_PLACE, val_hashes=[])
    begun.save(store)
    write_shard(store, begun, 1, load_tokenizer())
    before = (tmp_path / "s" / "val" / "00001.safetensors").read_bytes()

    said = preprocess(tmp_path, f"--source={rows_file}", "--out=s")

    manifest = json.loads((tmp_path / "s" / "manifest.json").read_text())
    assert "Begun by an earlier version, and kept to it" in said
    assert (tmp_path / "s" / "val" / "00001.safetensors").read_bytes() == before
    assert (manifest["format"], manifest["val_rows"]) == (1, 30)
    assert "split" not in manifest


def test_copies_of_rows_are_counted_and_columns_named(tmp_path: Path) -> None:
    row = {"id": 1, "instruction": "Hi.", "context": "Here.", "output": "Hello."}
    others = [row | {"output": f"Hello {n}."} for n in range(40)]
    lines = [json.dumps(entry) + "\n" for entry in (row, row, row, *others)]
    (tmp_path / "rows.jsonl").write_text("".join(lines))

    said = preprocess(tmp_path, "--source=rows.jsonl", "--out=s")

    manifest = json.loads((tmp_path / "s" / "manifest.json").read_text())
    assert "columns instruction=instruction,input=context,output=output; not read: id" in said
    assert "Duplicates: 2 rows, word for word as one before" in said
    assert (manifest["num_duplicates"], manifest["unread"]) == (2, ["id"])
    assert manifest["columns"] == "instruction=instruction,input=context,output=output"


def test_builtin_needs_no_network_and_packs_densely(tmp_path: Path) -> None:
    said = preprocess(tmp_path, "--source=builtin", "--num-tasks=4")

    rows = ShardSet(Store(tmp_path / "shards" / "builtin"), "train")
    assert "Shards are ready" in said
    assert len(rows) > 2000
    from instruct_core.data.packing import pack

    assert pack(rows.lengths(), 1024, seed=1337).filled > 0.97


def test_dry_run_writes_no_shard(tmp_path: Path, rows_file: Path) -> None:
    said = preprocess(tmp_path, f"--source={rows_file}", "--out=s", "--num-tasks=2", "--dry-run")

    assert "task 1: shards 1" in said
    assert not (tmp_path / "s").exists()


VERBS = ["preprocess", "finetune", "generate", "evaluate", "chat", "status", "logs"]


@pytest.mark.parametrize("verb", VERBS)
def test_help_teaches_without_importing_torch(verb: str, tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-X", "importtime", str(Path("launch", f"{verb}.py").resolve()), "--help"],
        capture_output=True, text=True, check=True, env=os.environ | {"COLUMNS": "100"},
    )  # fmt: skip

    assert "usage: python launch/" in result.stdout
    for module in ("torch", "numpy", "datasets", "submitit", "matplotlib", "rouge_score"):
        assert f"| {module}\n" not in result.stderr.replace(" ", "").replace("|", "| ")
