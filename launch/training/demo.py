"""
The demo: it types the commands that a person would type, and prints each.

    demo()

Commands run in the folder that it is started in, each a process of its own.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

from launch.console.commands import LAUNCH, command
from launch.console.lines import EXIT_BAD_INPUT, EXIT_FAILED, note, say, say_whole

RUN = "demo"
SHARDS = "shards/builtin-100"
HERE = "--cluster local"  # also on a login node
WARN_AT_STEP = 150
QUESTIONS = (
    "What is AI?",
    "What language are you written in?",
    "You are immortal",
)
POLL_SECONDS = 0.1
ON_CPU = os.environ | {"CUDA_VISIBLE_DEVICES": ""}  # two ranks on any machine


def demo() -> int:
    """Prepare, train, be warned, come back, finish and answer; return the exit code."""
    try:
        right = _tour()
    except subprocess.CalledProcessError as error:
        if error.returncode == EXIT_BAD_INPUT:  # it has said why
            return EXIT_BAD_INPUT
        note(f"error: {shlex.join(error.cmd)} ended with {error.returncode}")
        return EXIT_FAILED
    return 0 if right >= len(QUESTIONS) - 1 else EXIT_FAILED


def _tour() -> int:
    """Type all commands, and return how many answers are right."""
    _run("preprocess", f"--source builtin --out shards/builtin --num-tasks 4 {HERE}")
    _run("preprocess", f"--source builtin --out {SHARDS} --limit-rows 100 --num-tasks 1 {HERE}")
    # Small steps: a set this small is learnt by heart in some 400 of them, two minutes on two cores.
    _train_with_a_warning(
        f"--nodes 1 --gpus 2 --run {RUN} --shards {SHARDS} --model small-demo --init random "
        "--precision bf16 --seq-len 256 --tokens-per-step 512 --micro-batch-size 1 "
        "--max-steps 400 --learning-rate 1.5e-3 --warmup-steps 20 --save-every 100 --eval-every 200 "
        f"{HERE}"
    )
    questions = " ".join(f"--prompt {shlex.quote(question)}" for question in QUESTIONS)
    answers = _run("chat", f"--run {RUN} {questions}", capture=True).splitlines()
    references = _references()
    right = 0
    for question, answer in zip(QUESTIONS, answers, strict=False):
        right += answer == references[question]
        say_whole(
            f"  asked:     {question}\n  answered:  {answer}\n  reference: {references[question]}\n"
        )
    say(f"{right} of {len(QUESTIONS)} answers are the reference answers.")
    say("Curves: .venv/bin/tensorboard --logdir runs_instruct")
    return right


def _run(verb: str, arguments: str, capture: bool = False) -> str:
    typed = _typed(verb, arguments)
    output = subprocess.PIPE if capture else None
    done = subprocess.run(typed, check=True, stdout=output, env=ON_CPU, encoding="utf-8")
    return done.stdout or ""


def _typed(verb: str, arguments: str) -> list[str]:
    """Show a command as a person would type it here, and return its words."""
    words = shlex.split(arguments)
    say_whole(f"\n$ {command(verb, *words)}")
    return [sys.executable, str(LAUNCH / f"{verb}.py"), *words]


def _train_with_a_warning(arguments: str) -> None:
    """Train, and send USR2 half way: what a cluster sends before it takes the nodes away."""
    typed, before = _typed("finetune", arguments), _jobs()
    launcher = subprocess.Popen(typed, env=ON_CPU)
    while launcher.poll() is None and _step(_jobs() - before) < WARN_AT_STEP:
        time.sleep(POLL_SECONDS)
    if launcher.poll() is None:
        say_whole(f"\n$ kill -USR2 {launcher.pid}    # the warning of a time limit")
        launcher.send_signal(signal.SIGUSR2)
    if launcher.wait() != 0:
        raise subprocess.CalledProcessError(launcher.returncode, typed)


def _jobs() -> set[Path]:
    return set(Path("runs_instruct", RUN, "job").glob("*/progress-*.json"))


def _step(reports: set[Path]) -> int:
    return max(
        [json.loads(path.read_text(encoding="utf-8")).get("global_step", 0) for path in reports],
        default=0,
    )


def _references() -> dict[str, str]:
    source = next(Path(SHARDS, "source").glob("builtin-*.jsonl"))
    rows = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    return {row["instruction"]: row["output"] for row in reversed(rows)}
