"""What is said of a command line that does not fit: one plain line, naming flag, value and rule."""

from __future__ import annotations

from typing import Any

import pytest

from instruct_core.errors import ConfigError
from instruct_core.recipe import Recipe
from launch.flags.chat import Chat
from launch.flags.checkpoints import Export, Prune
from launch.flags.control import Control
from launch.flags.evaluate import Evaluate
from launch.flags.finetune import Finetune, check_flags
from launch.flags.generate import Generate
from launch.flags.logs import Logs
from launch.flags.parse import parse_flags
from launch.flags.preprocess import Preprocess
from launch.flags.refusal import refusal
from launch.flags.status import Status

NO_PLACE = "must name a place, got nothing: a variable in it may be empty."
REFUSED = [
    (Finetune, "--max-steps many", "--max-steps takes a whole number, got many."),
    (Finetune, f"--max-steps {'9' * 400}",
     f"--max-steps takes a whole number, got {'9' * 60}…."),
    (Finetune, f"--gpus {'9' * 31}",
     f"--gpus takes a number (of a kind of GPU: --gpus 4 --gpu-type a100), got {'9' * 31}."),
    (Finetune, f"--time {'9' * 31}",
     f"--time takes minutes or [days-]hours:minutes:seconds, got {'9' * 31}."),
    (Finetune, "--max-steps=", "--max-steps takes a whole number, got nothing."),
    (Finetune, "--dry-run=", "--dry-run takes no value, got an empty one."),
    (Finetune, "--checkpoints=", f"--checkpoints {NO_PLACE}"),
    (Chat, "--checkpoint=", f"--checkpoint {NO_PLACE}"),
    (Preprocess, "--source=a --source=", f"--source {NO_PLACE}"),
    (Finetune, "--micro-batch-size 1.5", "--micro-batch-size takes a whole number, got 1.5."),
    (Finetune, "--learning-rate fast", "--learning-rate takes a number, got fast."),
    (Finetune, "--save-every-minutes x", "--save-every-minutes takes a number, got x."),
    (Finetune, "--gpus a100:4",
     "--gpus takes a number (of a kind of GPU: --gpus 4 --gpu-type a100), got a100:4."),
    (Finetune, "--time soon", "--time takes minutes or [days-]hours:minutes:seconds, got soon."),
    (Finetune, "--mem lots", "--mem takes GB, or a number with K, M, G or T as in 500M, got lots."),
    (Finetune, "--lead 2:00", "--lead takes a whole number, got 2:00."),
    (Finetune, "--source a.jsonl", "There is no flag --source. Perhaps you meant --shards."),
    (
        Preprocess,
        "--source a.jsonl b.jsonl",  # a pattern that the shell has made words of
        "No flag takes the word b.jsonl. Put a pattern in quotes: --source 'rows-*.jsonl'.",
    ),
    (Preprocess, "--cluster moon", "--cluster takes one of 'auto', 'slurm', 'local', 'debug', got moon."),
    (Preprocess, "--long-rows=",
     "--long-rows takes one of 'auto', 'cut', 'truncate', 'drop', got nothing."),
    (Preprocess, "--num-tasks", "--num-tasks takes a value, got none."),
    (Status, "--json=my-run", "--json takes no value, got my-run."),
    (Logs, "--follow=my-run", "--follow takes no value, got my-run."),
    (Prune, "--dry_run=my-run", "--dry_run takes no value, got my-run."),
    (Finetune, "--no-deterministic=1", "--no-deterministic takes no value, got 1."),
    (Preprocess, "--follow=maybe", "--follow takes no value, got maybe."),
    (Preprocess, "--follow maybe", "No flag takes the word maybe."),
    (Generate, "--source q --out a --top-p high", "--top-p takes a number, got high."),
    (Generate, "", "--source and --out must be given."),
    (Generate, "--source q.jsonl", "--out must be given."),
    (Generate, "--sorce q.jsonl --out a", "There is no flag --sorce. Perhaps you meant --source."),
    (Generate, "--source=q --output=a",
     "There is no flag --output. Perhaps you meant --out or --checkpoints."),
    (Logs, "--folow", "There is no flag --folow. Perhaps you meant --follow."),
    (Logs, "", "RUN must be given."),
    (Logs, "a b", "No flag takes the word b."),
    (Export, "my-run", "--out must be given."),
    (Chat, "--prompt", "--prompt takes a value, got none."),
    (Chat, "--step worst", "--step takes newest, best or the number of a step, got worst."),
    (Generate, "--source q --out a --step -1",
     "--step takes newest, best or the number of a step, got -1."),
    (Evaluate, "--step 1.5", "--step takes newest, best or the number of a step, got 1.5."),
    (Export, "r --out a --step 1e3", "--step takes newest, best or the number of a step, got 1e3."),
    (Finetune, "--lr 3", "There is no flag --lr. Perhaps you meant --learning-rate."),
    (Finetune, "--lr=3", "There is no flag --lr. Perhaps you meant --learning-rate."),
    (Finetune, "--batch-size 8",
     "There is no flag --batch-size. Perhaps you meant --micro-batch-size or --tokens-per-step."),
    (Finetune, "--num-train-epochs 3",
     "There is no flag --num-train-epochs. Perhaps you meant --epochs."),
    (Finetune, "--output x", "There is no flag --output. Perhaps you meant --checkpoints."),
    (Preprocess, "--output x", "There is no flag --output. Perhaps you meant --out."),
    (Preprocess, "--lr 3", "There is no flag --lr."),
    (Preprocess, "--num-taks 3", "There is no flag --num-taks. Perhaps you meant --num-tasks."),
    (Finetune, "--gpu 2", "There is no flag --gpu. Perhaps you meant --gpus."),
    (Finetune, "--gpus-per-node=2", "There is no flag --gpus-per-node. Perhaps you meant --gpus."),
    (Finetune, "--cpus 4", "There is no flag --cpus. Perhaps you meant --cpus-per-task."),
    (Finetune, "--no-asyncsave", "There is no flag --no-asyncsave. Perhaps you meant --no-async-save."),
    (Finetune, "-N 2", "There is no flag -N. Perhaps you meant --nodes."),
    (Finetune, "--save 3",
     "There is no flag --save. Perhaps you meant --save-every or --save-every-minutes."),
    (Finetune, "--xyzzy 3", "There is no flag --xyzzy."),
    (Chat, "--temp 1", "There is no flag --temp. Perhaps you meant --temperature."),
    (Logs, "--run r", "RUN must be given as a word alone, without --run."),
    (Control, "pause r",
     "VERB takes one of 'save', 'stop', 'pause', 'resume', 'extend', 'rename', 'remove', got r."),
]  # fmt: skip


@pytest.mark.parametrize(("flags", "arguments", "line"), REFUSED)
def test_what_does_not_fit_is_one_plain_line(flags: type[Any], arguments: str, line: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_flags(flags, arguments.split(), program="python launch/x.py")

    assert str(refused.value) == f"{line} See python launch/x.py --help."


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (Chat, ["--prompt", "a", "--prompt", "a\udcff"]), (Chat, ["--system", "a\udcff"]),
        (Chat, ["--input", "a\udcff"]), (Preprocess, ["--columns", "a\udcff"]),
        (Generate, ["--source=q", "--out=a", "--answer-column", "a\udcff"]),
        (Finetune, ["--setup", "a\udcff"]), (Finetune, ["--lora-targets", "a\udcff"]),
    ],
)  # fmt: skip
def test_text_that_is_no_utf_8_is_refused_by_its_flag(flags: type[Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_flags(flags, words)

    assert str(refused.value) == (
        f"{words[-2]} must be UTF-8, got 'a\\udcff'. Type it in a terminal of UTF-8; if the locale has "
        "none: export LC_ALL=C.UTF-8"
    )


@pytest.mark.parametrize(
    ("epochs", "shown"),
    [
        ("0", "0"), ("nan", "nan"), ("inf", "inf"), ("1e308", r"1e\+308"), ("-1", "-1"),
        ("-0.5", "-0.5"), ("1000000000", "1,000,000,000"),
    ],
)  # fmt: skip
def test_passes_that_nobody_can_make_are_refused(epochs: str, shown: str) -> None:
    flags = parse_flags(Finetune, [f"--epochs={epochs}"])

    with pytest.raises(
        ConfigError,
        match=rf"--epochs must be more than 0 and at most 1,000,000, got {shown}\.$",
    ):
        check_flags(flags)


def test_name_that_no_disk_takes_is_refused_by_its_length() -> None:
    with pytest.raises(ConfigError, match="--run must have at most 200 letters, got 201"):
        check_flags(parse_flags(Finetune, ["--run", "r" * 201]))


def test_learning_rate_without_its_minus_is_refused() -> None:
    flags = parse_flags(Finetune, ["--learning-rate", "2e5"])

    with pytest.raises(
        ConfigError, match=r"must be more than 0 and at most 1 \(2e-5 is 0.00002\), got 200000"
    ):
        check_flags(flags)


def test_none_goes_back_to_the_default_on_a_resume() -> None:
    stored = Finetune(recipe=Recipe(save_every_minutes=5.0, micro_batch_size=2))

    flags = parse_flags(
        Finetune, ["--save-every-minutes=None", "--micro-batch-size=None"], default=stored
    )

    assert flags.recipe.save_every_minutes is None
    assert flags.recipe.micro_batch_size is None


def test_typed_values_and_those_of_the_stored_run_are_kept() -> None:
    stored = Finetune(recipe=Recipe(max_steps=300), run="mine")

    flags = parse_flags(
        Finetune, ["--seed=3", "--no-async-save", "--dropout", ".1"], default=stored
    )

    assert flags == Finetune(
        recipe=Recipe(max_steps=300, seed=3, async_save=False, dropout=0.1), run="mine"
    )


def test_message_without_a_frame_is_read_as_well() -> None:
    """As in a locale of ASCII alone."""
    rule = "-" * 47
    unframed = (
        f" Required options  \n {rule} \n  Missing from python launch/checkpoints.py ls:  \n"
        f"      RUN  \n          Name of the run. (required)  \n  {rule}\n"
        "  For full helptext, run:  \n      python launch/checkpoints.py ls --help     \n   \n"
    )

    assert refusal(unframed, Export, ["ls"]) == "RUN must be given."
