"""A folder that is to be filled and has things of others in it: it is refused, and they stay."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

from instruct_core.answers.parts import part_name
from instruct_core.errors import ConfigError
from instruct_core.model.hugging_face import refuse_filled, whole_or_nothing
from instruct_core.storage.store import Store
from launch.arrays.answers import answer_file
from launch.arrays.other_things import OF_ANSWERS, OF_SHARDS, refuse_other_things
from launch.flags.generate import Generate
from tests.conftest import launch, write_rows
from tests.launch.test_errors import snapshot

OTHERS = {
    "thesis.tex": "thesis.tex",
    "train/mine.jsonl": "train",
    "job/notes": "job",
    "source/rows.jsonl thesis.tex": "thesis.tex",
    "manifest.json model.safetensors": "model.safetensors",
    "plan.json 00000.jsonl": "00000.jsonl",
}
HARMLESS = (
    "", ".hidden", "lost+found/x", "source/rows.jsonl tokenizer/tokenizer.json .manifest.json.host.1.tmp",
    "plan.json train/shard-00000.safetensors job/0000/x source/rows.jsonl",
)  # fmt: skip


def filled(folder: Path, names: str) -> Store:
    folder.mkdir()
    for name in names.split():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    return Store(folder)


@pytest.mark.parametrize("names", OTHERS)
def test_folder_with_things_of_others_is_refused_by_their_names(tmp_path: Path, names: str) -> None:
    store = filled(tmp_path / "data", names)

    with pytest.raises(
        ConfigError, match=f"--out data is in use: .*/data has other.*{OTHERS[names]}"
    ):
        refuse_other_things("data", store, OF_SHARDS)


@pytest.mark.parametrize("names", HARMLESS)
def test_what_a_killed_try_or_a_disk_leaves_is_in_nobodys_way(tmp_path: Path, names: str) -> None:
    refuse_other_things("data", filled(tmp_path / "data", names), OF_SHARDS)


def test_parts_of_answers_whose_plan_was_damaged_are_made_again(tmp_path: Path) -> None:
    names = f"plan.json job/x {part_name(0, 'jsonl')} {part_name(123456, 'json')}"
    refuse_other_things("a.jsonl", filled(tmp_path / "damaged", names), OF_ANSWERS)

    with pytest.raises(ConfigError, match=r"--out a\.jsonl is in use: "):
        refuse_other_things(
            "a.jsonl", filled(tmp_path / "foreign", part_name(0, "jsonl")), OF_ANSWERS
        )


@pytest.mark.parametrize("out", ["a.csv", "a.jsonl.gz", "s3://bucket/a.PARQUET"])
def test_answers_are_not_written_under_the_ending_of_another_kind_of_file(
    out: str, tmp_path: Path
) -> None:
    ending = out.rpartition(".")[2].lower()

    with pytest.raises(
        ConfigError, match=f"--out {out} ends in .{ending}, and answers are JSON lines"
    ):
        answer_file(Generate(source=str(tmp_path / "questions.jsonl"), out=out))


def test_export_takes_a_folder_with_nothing_but_what_a_disk_leaves(tmp_path: Path) -> None:
    refuse_filled(filled(tmp_path / "disk", "lost+found/x .Trash"))

    with pytest.raises(ConfigError, match="is not empty"):
        refuse_filled(filled(tmp_path / "model", "config.json"))


def test_export_that_fails_half_way_leaves_nothing_of_its_own(tmp_path: Path) -> None:
    target = filled(tmp_path / "model", ".hidden")

    with suppress(KeyboardInterrupt), whole_or_nothing(target) as put:
        put("vocab.json", [memoryview(b"{}")])
        target.put("config.json", [memoryview(b"mine")])  # somebody else's, meanwhile
        raise KeyboardInterrupt

    assert target.names() == [".hidden", "config.json"]


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_shards_are_not_made_amid_the_rows_they_are_made_from(
    tmp_path: Path, more: tuple[str, ...]
) -> None:
    (tmp_path / "data/train").mkdir(parents=True)
    write_rows(tmp_path / "data/train/rows.jsonl", 40)
    before = snapshot(tmp_path)

    result = launch("preprocess", "--source=data/train", "--out=data", *more, cwd=tmp_path)

    assert result.returncode == 2, result.stdout
    assert result.stderr.startswith("error: --out data is in use: ")
    assert "(train)" in result.stderr
    assert snapshot(tmp_path) == before
