"""Bad input: one line that says what to do, exit code 2, and nothing written or lost."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pytest

from tests.conftest import TINY_RUN, launch

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


PREPROCESS = {
    "--source notjson.jsonl": "Row notjson.jsonl:2 cannot be used: not JSON",
    "--source wrongtype.jsonl": "Row wrongtype.jsonl:2 cannot be used: column instruction is a number",
    "--source missing.jsonl": "Row missing.jsonl:2 cannot be used: column output is missing",
    "--source empty.jsonl": "Row empty.jsonl:2 cannot be used: column output is empty",
    "--source latin.jsonl": "Row latin.jsonl:2 cannot be used: not valid UTF-8 at byte 17",
    "--source nothing.jsonl": "Source nothing.jsonl has no rows",
    "--source other.jsonl": "found: query, reply. Name them: --columns",
    "--source history.jsonl": "Row history.jsonl:1 cannot be used: column history, entry 1 is no",
    "--source good.jsonl --columns instruction=instruction,input=x,output=output": "has input=x",
    "--source cut.json": "Row cut.json:1 is not JSON: the array is broken or cut off here",
    "--source bad.csv": "Row bad.csv:3 cannot be used: it has 1 field, the header has 2",
    "--source rows.txt": "must end in .jsonl, .ndjson, .json, .csv, .tsv or .parquet, got .txt",
    "--source broken.parquet": "broken.parquet is damaged behind row 0, or no parquet file",
    "--source folder": "is a folder without rows",
    "--source gone.jsonl": "Source gone.jsonl is not there",
    "--source nobody/nothing": "cannot be had as a Hugging Face dataset",
    "--source s4://bucket/rows.jsonl": "Source s4://bucket/rows.jsonl cannot be read",
    "--source good.jsonl --num-tasks 0": "--num-tasks must be at least 1, got 0",
    f"--source good.jsonl --num-tasks {10**24}": "--num-tasks must be at most 1,000,000,000,000,000",
    f"--source good.jsonl --inspect {10**24}": "--inspect must be at most 1,000,000,000,000,000, got",
    f"--source good.jsonl --val-rows {10**24}": "--val-rows must be at most 1,000,000,000,000,000, got",
    "--source good.jsonl --num-tasks many": "--num-tasks takes a whole number, got many",
    "--source good.jsonl --limit-rows -1": "--limit-rows must be at least 1, got -1",
    "--source good.jsonl --columns a=b": "--columns must be instruction=NAME,output=NAME",
    "--source good.jsonl --columns instruction=x,output=y": "column x is missing",
    "--source good.jsonl --cluster moon": "'local', 'debug', got moon",
    "--source good.jsonl --num-taks 3": "There is no flag --num-taks. Perhaps you meant --num-tasks",
    "--source good.jsonl --out file": "--out file cannot be written: ",
    "--out gone --inspect 3": "gone are not there or not finished: no manifest.json in it. Give --source",
    "--source *.nothing --out x": "is not there",
    "--source utf16.csv": "Row utf16.csv:1 is no CSV header",
    "--source g*.jsonl": "--out must be given with --source g*.jsonl: it names no folder",
    "--source builtin --columns instruction=a,output=b": "--columns does not go with --source builtin",
}  # fmt: skip
BASE = "--run new --shards shards/small " + " ".join(TINY_RUN)
FINETUNE = {
    f"{BASE} --nodes 2": "--nodes must be 1 on this machine, got 2",
    f"{BASE} --gpus 0": "--gpus must be at least 1, got 0",
    f"{BASE} --max-steps 0": "--max-steps must be at least 1, got 0",
    f"{BASE} --save-every 0": "--save-every must be at least 1, got 0",
    f"{BASE} --save-every-minutes 0": "--save-every-minutes must be more than 0, got 0.0",
    f"{BASE} --max-unsaved-minutes -1": "--max-unsaved-minutes must be more than 0, got -1.0",
    f"{BASE} --keep-checkpoints 0": "--keep-checkpoints must be at least 1, got 0",
    f"{BASE} --keep-every -5": "--keep-every must be at least 0, got -5",
    f"{BASE} --async-save=maybe": "--async-save takes no value, got maybe",
    f"{BASE} --checkpoints memory://x": "memory ends with its process",
    f"{BASE} --checkpoints ~nobody-here/x": "nobody knows the home folder that ~ stands for",
    f"{BASE} --checkpoints file": "file/new cannot be used: Not a directory. Look at --checkpoints",
    f"{BASE} --checkpoints circle/x": "circle/x/new cannot be used: Too many levels",
    f"{BASE} --runs circle/x": "circle/x/new: Too many levels of symbolic links. Give another place",
    f"{BASE} --notify ~nobody-here/x": "nobody knows the home folder that ~ stands for",
    f"{BASE} --dropout 1": "--dropout must be from 0 up to but not including 1, got 1.0",
    f"{BASE} --learning-rate -1": "--learning-rate must be more than 0 and at most 1",
    f"{BASE} --learning-rate 2e5": "at most 1 (2e-5 is 0.00002), got 200000.0",
    f"{BASE} --learning-rate nan": "at most 1 (2e-5 is 0.00002), got nan",
    f"{BASE} --min-learning-rate 1": "--min-learning-rate must be between 0 and --learning-rate",
    f"{BASE} --model gpt5": "--model must be one of gpt2, gpt2-medium",
    f"{BASE} --seq-len 4096": "--seq-len must be at most 1024, got 4096",
    f"{BASE} --tokens-per-step 1000": "got 1000. Use --tokens-per-step 960",
    f"{BASE} --gpus 9": "There must be at most 8 ranks, one for each sequence of a step",
    f"{BASE} --run a/b": "--run must be a plain name of letters, digits, '.', '_' and '-' that",
    f"{BASE} --run ..": "--run must be a plain name",
    f"{BASE} --seed 99999999999999999999": "--seed must be at least 0 and less than 2**63",
    f"{BASE} --learning-rate inf": "at most 1 (2e-5 is 0.00002), got inf",
    f"{BASE} --init evil.pt": "evil.pt is not read: only tensors and plain fields are",
    f"{BASE} --init folder": "folder is not there, or empty. Give a Hugging Face folder or id",
    f"{BASE} --model small-demo --init checkpoints_instruct/t/step-00000002": "is no small-demo",
    f"{BASE} --init gone.pt": "--init gone.pt is not there",
    f"{BASE} --shards nomanifest": "Shards nomanifest are not there or not finished",
    f"{BASE} --shards gone": "Shards gone are not there or not finished",
    f"{BASE} --checkpoints s4://x": "Place s4://x cannot be used: Protocol not known: s4",
    f"{BASE} --checkpoints s3://": "Place s3:// cannot be used: it names no bucket",
    f"{BASE} --runs gs:///runs": "Place gs:///runs cannot be used: it names no bucket",
    f"{BASE} --micro-batch-size 100000000": "need about",
    f"{BASE} --loss-on prompt": "--loss-on takes one of 'auto', 'all', 'response', got prompt",
    f"{BASE} --learning-rte 3": "There is no flag --learning-rte. Perhaps you meant --learning-rate",
    "--run t --learning-rate 0.5": "--learning-rate is 0.001, got 0.5",
    "--run t --seed 1 --dropout 0.5": "--dropout is 0.0, got 0.5; --seed is 1337, got 1",
    "--run t --max-steps 1": "begun for --max-steps 2, got 1. It can only grow",
}  # fmt: skip
CHAT = {
    "--run gone": "gone/run.json. Runs there: t.",
    "--weights bf16": "--weights takes one of 'fp32', 'fp16', got bf16",
    "--checkpoint gone": "gone is not there, or empty. Give a Hugging Face folder or id, a step",
    "--checkpoint gone.pt": "gone.pt is not there. Give a Hugging Face folder or id, a step folder",
    "--checkpoint checkpoints_instruct/t": "a run's folder. Give a step of it: checkpoints_instruct/t/",
    "--checkpoint someone/model": "--checkpoint someone/model is not here, and the Hugging Face Hub does",
    "--run t --base someone/model": "--base someone/model is not here, and the Hugging Face Hub does not",
    "--checkpoint evil.pt": "File evil.pt is not read: only tensors and plain fields are",
    "--checkpoint shards/small": "shards/small is no model: no config.json in it. Give a",
    "--run t --checkpoint folder": "--run and --checkpoint name two models",
    "--run t --max-new-tokens 0": "--max-new-tokens must be at least 1, got 0",
    "--run t --temperature -1": "--temperature must be at least 0, got -1.0",
    "--run t --top-k -1": "--top-k must be at least 0, got -1",
    "--run t --top-p 0": "--top-p must be more than 0 and at most 1, got 0.0",
    "--run t --repetition-penalty 0": "--repetition-penalty must be more than 0, got 0.0",
    "--run t --prompt=": "--prompt must have some text",
    "--run t --base gone": "Model gone is not there",
    "--run t --base t --prompt hi": "--base t is used by /compare alone, in a conversation",
}
ASK = "--run t --source questions.jsonl --out a.jsonl"
GENERATE = {
    f"{ASK} --num-tasks 0": "--num-tasks must be at least 1, got 0",
    f"{ASK} --batch-size 0": "--batch-size must be at least 1, got 0",
    f"{ASK} --max-new-tokens -1": "--max-new-tokens must be at least 1, got -1",
    f"{ASK} --temperature nan": "--temperature must be at least 0, got nan",
    f"{ASK} --top-p 2": "--top-p must be more than 0 and at most 1, got 2.0",
    f"{ASK} --columns output=a": "--columns must be instruction=NAME[,input=NAME][,history=NAME] or",
    f"{ASK} --columns instruction=gone": "questions.jsonl:1 cannot be used: column gone is missing",
    f"{ASK} --answer-column new_tokens": "--answer-column must be a name of its own",
    f"{ASK} --answer-column prompt": "questions.jsonl:1 cannot be used: it has a column prompt",
    "--run t --source own.jsonl --out a.jsonl": "own.jsonl:1 cannot be used: it has a column new_tokens",
    f"{ASK} --checkpoint folder": "--run and --checkpoint name two models",
    "--run gone --source questions.jsonl --out a.jsonl": "Run gone is not there",
    "--checkpoint evil.pt --source questions.jsonl --out a.jsonl": "File evil.pt is not read",
    "--run t --source gone.jsonl --out a.jsonl": "Source gone.jsonl is not there",
    "--run t --source builtin --out a.jsonl": "--source builtin must be a file of questions",
    "--run t --source nothing.jsonl --out a.jsonl": "Source nothing.jsonl has no rows",
    "--run t --source notjson.jsonl --out a.jsonl": "Row notjson.jsonl:2 cannot be used: not JSON",
    "--run t --source other.jsonl --out a.jsonl": "Columns must have instruction, prompt, question or",
    "--run t --source history.jsonl --out a.jsonl": "column history, entry 1 is no question",
    "--run t --source questions.jsonl --out folder/": "--out must name a file, got folder/",
    "--run t --source questions.jsonl --out folder": "--out folder is there",
    "--run t --source questions.jsonl --out good.jsonl": "--out good.jsonl is there",
    "--run t --source questions.jsonl --out file/a.jsonl": "--out file/a.jsonl cannot be written: ",
    "--run t --source questions.jsonl --out s4://x/a.jsonl": "Protocol not known: s4",
    "--run t --source questions.jsonl --out s3://a.jsonl": "Place s3:/ cannot be used: it names no",
}
DOCTOR = {
    "--checkpoints s4://x": "Place s4://x cannot be used: Protocol not known: s4",
    "--checkpoints s3://me:secret@x": "Place s3://... carries a password",
    "--checkpoints s3://": "Place s3:// cannot be used: it names no bucket",
    "--checkpoint c": "There is no flag --checkpoint. Perhaps you meant --checkpoints",
    "--json=yes": "--json takes no value, got yes",
    "here": "No flag takes the word here",
}
REPORT = {
    "gone": "Run gone is not there",
    "../t": "RUN must be a plain name",
    "t --out good.jsonl": "good.jsonl is in use: it is no page of this command",
    "t --out folder": "folder is a folder. Name a file in it",
    "t --out circle/page.html": "circle: Too many levels of symbolic links. Give another place",
    "t --out folder/": "--out must name a file, got folder/",
    "t --out file/page.html": "file: Not a directory. Give another place",
    "t --out s3://page.html": "Place s3: cannot be used: it names no bucket",
    "t --out s4://x/page.html": "Place s4://x cannot be used: Protocol not known: s4",
    "t --output page.html": "There is no flag --output",
}
TABLE = [
    (verb, arguments, message)
    for verb, table in (
        ("preprocess", PREPROCESS),
        ("finetune", FINETUNE),
        ("chat", CHAT),
        ("generate", GENERATE),
        ("doctor", DOCTOR),
        ("report", REPORT),
    )
    for arguments, message in table.items()
]


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
