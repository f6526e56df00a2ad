"""A base of the Llama family from its folder to an export, as a person takes it there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from instruct_core.answers.generation import generate
from instruct_core.data.tokenizer import load_tokenizer, tokenizer_of_model
from instruct_core.model.hugging_face import export_folder
from instruct_core.model.weights import load_model
from instruct_core.storage.store import Store
from tests.conftest import launch, write_rows
from tests.instruct_core.model.their_llama import reference, save_folder
from tests.small_tokenizers import write_byte_level

SHORT = [
    "--seq-len=64", "--tokens-per-step=256", "--max-steps=2", "--learning-rate=1e-3",
    "--warmup-steps=0", "--cluster=local",
]  # fmt: skip


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base whose vocabulary is padded, shards of its tokenizer, and a run of both."""
    desk = tmp_path_factory.mktemp("desk")
    write_rows(desk / "rows.jsonl", 60)
    base = write_byte_level(desk / "small-base")
    tokens = load_tokenizer(str(base)).vocab_size
    save_folder(base, reference("smollm2", vocab_size=tokens + 35, eos_token_id=2, bos_token_id=1))
    for verb, flags in (
        ("preprocess", ["--source=rows.jsonl", "--tokenizer=small-base", "--out=shards/own"]),
        ("finetune", ["--shards=shards/own", "--init=small-base", *SHORT]),
    ):
        done = launch(verb, *flags, cwd=desk)
        assert done.returncode == 0, done.stderr
        (desk / f"{verb}.out").write_text(done.stdout)
    return desk


def test_run_of_a_base_is_named_after_it_and_says_what_it_is(desk: Path) -> None:
    said = (desk / "finetune.out").read_text()

    assert "Run     small-base-own, a new run" in said
    assert "llama of 3 layers and 96 positions, 0.0M, from small-base" in said


def test_export_of_a_base_writes_the_same_text_in_transformers(desk: Path) -> None:
    step = desk / "checkpoints_instruct" / "small-base-own" / "step-00000002"

    export_folder(Store(step.parent), 2, Store(desk / "exported"))

    model = AutoModelForCausalLM.from_pretrained(desk / "exported").eval()
    tokenizer = AutoTokenizer.from_pretrained(desk / "exported")
    own = tokenizer_of_model(str(step))
    text = "What is the capital of France?"
    assert tokenizer(text)["input_ids"] == own.encode(text)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id == own.end_id
    manifest = json.loads((step / "manifest.json").read_text())
    assert manifest["model"]["model_type"] == "llama"
    ours = load_model(str(desk / "exported"))
    tokens = own.encode(text)
    [answer] = generate(ours, [tokens], max_new_tokens=8, end_ids=own.end_ids)
    with torch.no_grad():
        theirs = model.generate(
            torch.tensor([tokens]), max_new_tokens=8, do_sample=False, pad_token_id=0
        )
    ended = answer.finish_reason == "end"
    new = theirs[0, len(tokens) :].tolist()
    assert new[: len(new) - ended] == answer.tokens


def test_context_of_a_base_bounds_the_sequences(desk: Path) -> None:
    refused = launch(
        "finetune",
        "--shards=shards/own",
        "--init=small-base",
        "--run=long",
        "--seq-len=97",
        cwd=desk,
    )

    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "--seq-len must be at most 96, which is what" in refused.stderr
    assert not (desk / "checkpoints_instruct" / "long").exists()


TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_base_with_a_chat_template_learns_responses_where_nothing_else_is_typed(desk: Path) -> None:
    chats = desk / "chats-base"
    shutil.copytree(desk / "small-base", chats)
    (chats / "chat_template.jinja").write_text(TEMPLATE)
    flags = ["--shards=shards/own", "--run=new", *SHORT, "--dry-run"]

    learns = launch("finetune", f"--init={chats}", *flags, cwd=desk)
    other = launch("finetune", f"--init={chats}", "--loss-on=all", *flags, cwd=desk)

    assert "Loss    on responses, as the base has a chat template (--loss-on all: " in learns.stdout
    assert '"loss_on": "response"' in learns.stdout
    assert "Loss    on all tokens; at" in other.stdout
    assert '"loss_on": "all"' in other.stdout
    assert "Loss    on all tokens (--loss-on response" in (desk / "finetune.out").read_text()
