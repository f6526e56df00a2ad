"""Bad input: one line that says what to do, exit code 2, and nothing written or lost."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pytest

from tests.conftest import TINY_RUN, launch
from tests.launch.wrong_flags import BASE, TABLE

GOOD = '{"instruction": "a", "output": "b"}\n'


def snapshot(folder: Path) -> dict[str, bytes]:
    """Return the content of every file below a folder, and its folders."""
    paths = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*"))}
    return {name: path.read_bytes() if path.is_file() else b"" for name, path in paths.items()}


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, light_shards: Path) -> Path:
    """A working folder with shards, a trained run and all kinds of bad files."""
    desk = tmp_path_factory.mktemp("desk")
    shutil.copytree(light_shards, desk / "shards" / "small")
    files = {
        "good.jsonl": GOOD * 40,
        "notjson.jsonl": GOOD + "{oops\n",
        "wrongtype.jsonl": GOOD + '{"instruction": 3, "output": "b"}\n',
        "missing.jsonl": GOOD + '{"instruction": "a"}\n',
        "empty.jsonl": GOOD + '{"instruction": "a", "output": ""}\n',
        "nothing.jsonl": "",
        "other.jsonl": '{"query": "a", "reply": "b"}\n',
        "history.jsonl": '{"instruction": "a", "output": "b", "history": [["q"]]}\n',
        "cut.json": '[{"instruction": "a", "output": "b"},',
        "bad.csv": "instruction,output\na,b\nonly one\n",
        "rows.txt": "hello\n",
        "questions.jsonl": '{"prompt": "Hi."}\n',
        "own.jsonl": '{"prompt": "Hi.", "new_tokens": 4}\n',
        "broken.parquet": "PAR1 no",
        "evil.pt": "not a pickle",
    }
    for name, content in files.items():
        (desk / name).write_text(content)
    (desk / "latin.jsonl").write_bytes(GOOD.encode() + b'{"instruction": "\xe9", "output": "b"}\n')
    (desk / "utf16.csv").write_bytes("instruction,output\na,b\n".encode("utf-16"))
    (desk / "folder").mkdir()
    (desk / "nomanifest").mkdir()
    (desk / "file").write_text("")
    (desk / "circle").symlink_to("circle")
    words = ("--run=t", "--shards=shards/small", "--max-steps=2", *TINY_RUN)
    trained = launch("finetune", *words, cwd=desk)
    assert trained.returncode == 0, trained.stderr
    return desk


@pytest.mark.parametrize(("verb", "arguments", "message"), TABLE)
def test_bad_input_is_one_line_and_changes_nothing(
    desk: Path, verb: str, arguments: str, message: str
) -> None:
    before = snapshot(desk)

    result = launch(verb, *arguments.split(), cwd=desk)

    assert result.returncode == 2, result.stdout + result.stderr
    assert message in result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert snapshot(desk) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("preprocess --source notjson.jsonl.gz", "Row notjson.jsonl.gz:2 cannot be used: not JSON"),
        ("preprocess --source history.jsonl.gz", "Row history.jsonl.gz:1 cannot be used: column history"),
        ("preprocess --source cut.json.gz", "Row cut.json.gz:1 is not JSON: the array is broken"),
        ("preprocess --source utf16.csv.gz", "Row utf16.csv.gz:1 is no CSV header"),
        ("generate --run t --source own.jsonl.gz --out a.jsonl", "Row own.jsonl.gz:1 cannot be used"),
    ],
)  # fmt: skip
def test_compressed_file_is_named_as_it_was_typed(
    desk: Path, tmp_path: Path, arguments: str, message: str
) -> None:
    for name in ("notjson.jsonl", "history.jsonl", "cut.json", "utf16.csv", "own.jsonl"):
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress((desk / name).read_bytes()))
    shutil.copytree(desk / "checkpoints_instruct", tmp_path / "checkpoints_instruct")

    result = launch(*arguments.split(), cwd=tmp_path)

    assert result.returncode == 2, result.stdout + result.stderr
    assert result.stderr.startswith(f"error: {message}")
    assert result.stderr.count("\n") == 1


def test_skipped_row_of_a_compressed_file_is_listed_as_it_was_typed(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress((GOOD * 40 + "no\n").encode()))

    result = launch("preprocess", "--source=rows.jsonl.gz", "--skip-bad-rows", cwd=tmp_path)

    assert result.returncode == 0, result.stderr
    assert "skipped rows.jsonl.gz:41: not JSON" in result.stdout


def test_run_whose_first_settings_were_wrong_takes_others(desk: Path, tmp_path: Path) -> None:
    shutil.copytree(desk / "shards", tmp_path / "shards")
    killed = launch(
        "finetune", *BASE.split(), "--max-steps=2", "--save-every=9", "--dry-run", cwd=desk
    )
    assert killed.returncode == 0, killed.stderr
    store = tmp_path / "checkpoints_instruct" / "new"
    store.mkdir(parents=True)
    document = json.loads((desk / "checkpoints_instruct" / "t" / "run.json").read_text())
    document["config"] |= {"run": "new", "init": "/gone.pt", "learning_rate": 5.0}
    (store / "run.json").write_text(json.dumps(document))

    result = launch("finetune", *BASE.split(), "--max-steps=2", cwd=tmp_path)

    assert result.returncode == 0, result.stderr


def test_changed_shards_are_refused_on_resume(desk: Path, tmp_path: Path) -> None:
    made = launch("preprocess", "--source=good.jsonl", f"--out={tmp_path}/other", cwd=desk)
    assert made.returncode == 0, made.stderr

    result = launch("finetune", "--run=t", f"--shards={tmp_path}/other", "--max-steps=4", cwd=desk)

    assert result.returncode == 2
    assert "--shards has other data" in result.stderr


def test_manifest_is_json_that_a_person_can_read(desk: Path) -> None:
    manifest = json.loads((desk / "shards" / "small" / "manifest.json").read_text())

    assert manifest["train_rows"] + manifest["val_rows"] == 600
