"""launch/evaluate.py as a person uses it: what it finds, where it writes, what it refuses."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from instruct_core.checkpoints.steps import read_manifest, step_name
from instruct_core.storage.store import Store
from launch.evaluation.page import FILES, SHOWN_CHARS, as_text, cut
from tests.conftest import TINY_RUN, launch
from tests.launch.evaluation.html_tables import Page

NASTY = "a | b\n<script>alert(1)</script>\n\n`c` \\| **d** [e](f) ![g](h) &amp; _i_"
QUICK = ["--rows=6", "--max-new-tokens=8"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 20 steps on rows that look like markup; a model of no run, and reports of others."""
    cwd = tmp_path_factory.mktemp("trained")
    for name in ("bare/config.json", "found/report.md", "tool/report.md", "tool/report.json"):
        (cwd / name).parent.mkdir(exist_ok=True)
        (cwd / name).write_text("{}")
    with (cwd / "rows.jsonl").open("w") as file:
        for row in range(300):
            entry = {"instruction": f"{row}: {NASTY}", "output": f"{NASTY} {row}"}
            file.write(json.dumps(entry) + "\n")
    for verb, *arguments in (
        ("preprocess", "--source=rows.jsonl", "--out=shards/nasty", "--num-tasks=1"),
        (
            "finetune", "--run=r", "--shards=shards/nasty", "--max-steps=20", *TINY_RUN,
            "--seq-len=128", "--tokens-per-step=1024", "--save-every=10",
        ),
    ):  # fmt: skip
        result = launch(verb, *arguments, cwd=cwd)
        assert result.returncode == 0, result.stderr
    return cwd


@pytest.fixture
def desk(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "desk")
    return tmp_path / "desk"


@pytest.fixture(scope="module")
def evaluated(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of the run's newest step, without a flag that would not be needed."""
    cwd = tmp_path_factory.mktemp("evaluated") / "desk"
    shutil.copytree(trained, cwd)
    said = evaluate(cwd, *QUICK)
    folder = cwd / "runs_instruct" / "r" / "evaluation-step-00000020"
    assert f"Report: {folder}/report.html" in said
    assert "perplexity of responses" in said
    assert "ROUGE-L F1" in said
    return folder


def evaluate(cwd: Path, *arguments: str) -> str:
    result = launch("evaluate", *arguments, cwd=cwd)
    assert result.returncode == 0, result.stderr
    return result.stdout


def report_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "report.json").read_text()))


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_report_says_how_weights_were_kept_and_has_the_losses_of_these(
    evaluated: Path, desk: Path
) -> None:
    evaluate(desk, *QUICK, "--weights=fp16", "--out=half")

    plain, half = report_of(evaluated), report_of(desk / "half")
    assert (plain["weights"], half["weights"]) == ("fp32", "fp16")
    assert "| weights kept as | fp16 |" in (desk / "half" / "report.md").read_text()
    assert "weights kept as" not in (evaluated / "report.md").read_text()
    for when in ("before", "after"):
        assert half[when]["loss"] != plain[when]["loss"]
        assert half[when]["loss"] == pytest.approx(plain[when]["loss"], abs=1e-3)


def test_trained_model_is_likelier_to_say_what_the_rows_say(evaluated: Path) -> None:
    report = report_of(evaluated)

    before, after = report["before"], report["after"]
    manifest = read_manifest(Store(evaluated.parents[2] / "checkpoints_instruct" / "r"), 20)
    assert (report["run"], report["step"]) == ("r", 20)
    assert before["loss"] == pytest.approx(math.log(50257), abs=0.1)
    assert after["loss"] < before["loss"] - 0.3
    assert after["response_loss"] < before["response_loss"] - 0.3
    assert after["perplexity"] == pytest.approx(math.exp(after["loss"]))
    assert after["loss"] == pytest.approx(manifest.progress.val_loss, abs=1e-4)
    assert report["num_response_tokens"] < report["num_tokens"]
    assert report["val_rows"] == 15
    assert report["num_answered"] == 6


def test_folder_holds_the_report_in_all_its_forms(evaluated: Path) -> None:
    files = files_of(evaluated)

    report = report_of(evaluated)
    page = files["report.html"].decode()
    assert set(files) == set(FILES)
    assert [step for step, _ in report["curves"]["train/loss"]] == list(range(1, 21))
    assert [step for step, _ in report["curves"]["val/loss"]] == [0, 10, 20]
    for form in (files["report.md"].decode(), page):
        assert f"{report['after']['perplexity']:,.2f}" in form
        assert "random weights of tiny, seed 1337" in form
    assert files["report.md"].decode().count("](loss.svg)") == 1
    assert page.count("<svg") == 1
    assert "<img" not in page
    assert "val/loss" in files["loss.svg"].decode()
    assert "evaluated" in files["loss.svg"].decode()


def test_text_of_rows_stays_in_its_cell(evaluated: Path) -> None:
    page = Page((evaluated / "report.html").read_text())

    report = report_of(evaluated)
    header = page.rows.index(["prompt", "reference", "before", "after"])
    rows = page.rows[header + 1 :]
    assert len(rows) == 6
    for row, sample in zip(rows, report["samples"], strict=True):
        number = sample["prompt"].removeprefix("### Instruction:\n").partition(":")[0]
        assert row[0] == f"{number}: {NASTY}"
        assert row[1] == f"{NASTY} {number}"
        assert sample["reference"] == f"{NASTY} {number}"
        assert len(row) == 4
    assert not page.tags & {"script", "strong", "em", "code", "a", "img"}
    lines = (evaluated / "report.md").read_text().splitlines()
    assert sum("&lt;script&gt;" in line for line in lines) == 6
    assert not any("<script>" in line for line in lines)


def test_long_text_is_cut_and_control_characters_are_shown_by_their_numbers() -> None:
    assert as_text("a\x1b[31mb\u202ec\x85d\u2028e\r\nf") == (
        "a\\\\u001b\\[31mb\\\\u202ec ↵ d ↵ e ↵ f"
    )
    assert cut("x" * 2000) == "x" * SHOWN_CHARS + " …"


def test_same_evaluation_writes_the_same_bytes(evaluated: Path) -> None:
    before = files_of(evaluated)

    evaluate(evaluated.parents[2], "--run=r", *QUICK)

    assert files_of(evaluated) == before


def test_step_folder_is_compared_with_a_named_base(evaluated: Path) -> None:
    cwd = evaluated.parents[2]
    steps = [f"checkpoints_instruct/r/{step_name(step)}" for step in (10, 20)]

    evaluate(cwd, f"--checkpoint={steps[1]}", f"--base={steps[0]}", "--out=later", *QUICK)

    report, whole = report_of(cwd / "later"), report_of(evaluated)
    assert report["base"] == str(cwd / steps[0])
    assert report["after"] == whole["after"]
    assert report["after"]["loss"] < report["before"]["loss"] < whole["before"]["loss"] - 0.1


def test_model_of_no_run_replaces_a_report_and_has_no_curve(evaluated: Path) -> None:
    cwd = evaluated.parents[2]
    shutil.copytree(evaluated, cwd / "again")
    for name in set(FILES) - {"report.json"}:  # it is written first: a kill can leave it alone
        (cwd / "again" / name).unlink()
    step = cwd / "checkpoints_instruct" / "r" / step_name(20)
    shutil.copytree(step, cwd / "plain", ignore=shutil.ignore_patterns("manifest*", "state*"))

    evaluate(
        cwd, "--checkpoint=plain", "--base=random", "--shards=shards/nasty", "--out=again", *QUICK
    )

    report, whole = report_of(cwd / "again"), report_of(evaluated)
    assert set(files_of(cwd / "again")) == set(FILES) - {"loss.svg"}
    assert "There is no curve" in (cwd / "again" / "report.md").read_text()
    assert report["run"] is None
    assert report["curves"] == {}
    # An export knows how far it was trained.
    assert report["seq_len"] == whole["seq_len"] == 128
    for when in ("before", "after"):
        assert report[when] == pytest.approx(whole[when], rel=1e-4)


def test_run_began_from_weights_that_are_its_base(desk: Path) -> None:
    first = f"{desk}/checkpoints_instruct/r/{step_name(10)}"
    edit(desk, init=first)

    evaluate(desk, "--run=r", "--out=mine", *QUICK)
    edit(desk, init=f"{desk}/gone")
    result = launch("evaluate", "--run=r", "--out=other", *QUICK, cwd=desk)

    assert report_of(desk / "mine")["base"] == first
    assert result.returncode == 2
    assert f"error: Base {desk}/gone, which the run was trained from, is not" in result.stderr
    assert result.stderr.count("\n") == 1


def edit(desk: Path, **settings: object) -> None:
    """Change what a run says it was begun with."""
    path = desk / "checkpoints_instruct" / "r" / "run.json"
    document = json.loads(path.read_text())
    document["config"] |= settings
    path.write_text(json.dumps(document))


def test_shards_made_anew_are_refused_unless_named(desk: Path) -> None:
    edit(desk, data_fingerprint="0" * 32)

    refused = launch("evaluate", "--run=r", "--out=mine", *QUICK, cwd=desk)
    evaluate(desk, "--run=r", "--out=mine", "--shards=shards/nasty", *QUICK)

    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "are not those the run r was trained on" in refused.stderr


def test_rows_that_are_cut_off_before_their_answers_are_refused(desk: Path) -> None:
    rows = [{"instruction": f"{n}" + " word" * 80, "output": "Yes."} for n in range(20)]
    (desk / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = launch(
        "preprocess", "--source=long.jsonl", "--val-source=long.jsonl", "--out=long",
        "--template=chatml", cwd=desk,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    step = f"--checkpoint=checkpoints_instruct/r/{step_name(20)}"
    edit(desk, seq_len=64)

    refused = launch(
        "evaluate", step, "--base=random", "--shards=long", "--out=mine", *QUICK, cwd=desk
    )

    assert refused.returncode == 2
    assert "have no answer to measure " in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert not (desk / "mine").exists()


def test_damaged_step_is_named_and_the_one_before_is_evaluated(desk: Path) -> None:
    path = desk / "checkpoints_instruct" / "r" / step_name(20) / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes(data)

    result = launch("evaluate", "--run=r", *QUICK, cwd=desk)

    assert result.returncode == 0, result.stderr
    assert "is corrupt" in result.stdout + result.stderr
    assert report_of(desk / "runs_instruct" / "r" / "evaluation-step-00000010")["step"] == 10


BAD = {
    "--run gone": "Run gone is not there",
    "--run ../r": "--run must be a plain name",
    "--run r --checkpoint x": "--run and --checkpoint name two models",
    "--rows 0": "--rows must be at least 1, got 0",
    "--max-new-tokens 0": "--max-new-tokens must be at least 1, got 0",
    "--checkpoints nowhere": "has saved yet. Train one",
    "--checkpoint checkpoints_instruct/r": "r is no model but a run's folder. Give a step of it: ",
    "--checkpoint rows.jsonl": "rows.jsonl is a file, and none of .pt, .pth, .ckpt, .safetensors, .bin.",
    "--checkpoint bare": "--base must be given with --checkpoint bare: no run.json beside it",
    "--checkpoint bare --base random": "--shards must be given with --checkpoint bare",
    "--checkpoint bare --base random --shards shards/nasty": "--out must be given with --checkpoint",
    "--checkpoint gone": "gone is not there",
    "--base gone": "gone is not there",
    "--base someone/model": "--base someone/model is not here, and the Hugging Face Hub does not give it",
    "--shards gone": "gone are not there or not finished: no manifest.json",
    "--out found": "is in use: it is not empty, and there is no report.json",
    "--out tool": "is in use: it is not empty, and there is no report.json of this command in it",
    "--out rows.jsonl": "rows.jsonl: Not a directory. Give another place",
    "--out s3://nobody/x": "--out s3://nobody/x cannot be used",
    "--checkpoints s3://nobody/x": "--checkpoints s3://nobody/x cannot be used",
}


@pytest.mark.parametrize("words", BAD)
def test_bad_words_are_one_line_and_write_nothing(
    trained: Path, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    before = sorted(trained.rglob("*"))

    result = launch("evaluate", *words.split(), cwd=trained)

    assert result.returncode == 2, result.stdout
    assert BAD[words] in result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert sorted(trained.rglob("*")) == before
