"""
    python -m bench.generate            # GPT-2 of 124M parameters; --model smollm2 for a Llama's shape
    python -m bench.generate --device cuda

Our generation beside transformers.generate: same random weights, same prompts, same threads, in
turn in one process. Tokens per second greedy and sampled, one text and sixteen; the time to the
first token; and, each in a fresh process, the memory that generation takes above the loaded model.
On a GPU ours takes part in bf16 and without recorded steps too, on a CPU with its weights in float16, and
there is a ceiling. For one text each token takes every weight from memory once, so it is how often they
can be read as float32, and nothing else done. For several it is torch's own quickest products alone, of
the prompts and of each step, and reading once what attention looks at.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.common import parser, report, seconds_of
from bench.shapes import SHAPES, random_model, transformers_of
from instruct_core.answers.generation import generate
from instruct_core.answers.sampling import Sampling
from instruct_core.model.family import Model
from instruct_core.model.lora import is_turned, projections, sides
from instruct_core.model.packed import PackedLinear
from instruct_core.model.weights import ready
from instruct_core.recipe import Kept
from jobs.process import peak_bytes

PROMPT_TOKENS = 128
NEW_TOKENS = 64
SETTINGS = {
    "greedy": Sampling(),
    "sampled": Sampling(temperature=0.8, top_k=50, top_p=0.95),
}
ONE_BY_ONE = "ours, kernels launched one by one"
NUM_WORDS = 49152  # that all vocabularies have
Run = Callable[[list[list[int]], Sampling, int], int]  # returns how many tokens it made


def prompts(batch_size: int) -> list[list[int]]:
    draw = np.random.default_rng(0)
    drawn: list[list[int]] = draw.integers(NUM_WORDS, size=(batch_size, PROMPT_TOKENS)).tolist()
    return drawn


def make_ours(
    name: str, device: str, batch_size: int, kept: Kept = "fp32", records: bool = True
) -> Run:
    assert device == ("cuda" if torch.cuda.is_available() else "cpu"), "where ready() puts it"
    model = ready(random_model(name), batch_size, kept)
    if not records:
        model.recorder = None

    def run(batch: list[list[int]], sampling: Sampling, num_tokens: int) -> int:
        answers = generate(model, batch, max_new_tokens=num_tokens, sampling=sampling)
        return sum(len(answer.tokens) for answer in answers)

    return run


def endless(name: str, device: str) -> Any:
    """Return transformers' own model, whose texts go on to the last token."""
    theirs = transformers_of(random_model(name).to(device)).eval()
    theirs.generation_config.eos_token_id = None
    theirs.generation_config.pad_token_id = 0
    return theirs


def make_theirs(name: str, device: str, batch_size: int) -> Run:
    theirs = endless(name, device)

    def run(batch: list[list[int]], sampling: Sampling, num_tokens: int) -> int:
        tokens = torch.tensor(batch, device=device)
        how: dict[str, Any] = {"do_sample": False}
        if sampling.temperature:
            how = {"do_sample": True, "temperature": sampling.temperature}
            how |= {"top_k": sampling.top_k, "top_p": sampling.top_p}
        made = theirs.generate(
            tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=num_tokens, **how
        )
        return int((made.shape[1] - tokens.shape[1]) * len(batch))

    return run


def read_weights(model: Model) -> float:
    """Return how many times a second all weights can be summed up."""
    weights = list(model.parameters())
    return NEW_TOKENS / seconds_of(lambda: [w.sum() for _ in range(NEW_TOKENS) for w in weights])


class Bare:
    """
    What several texts cost at least: products, and keys and values that are read.

    Args:
        model: On the CPU, not packed.
        batch_size: Texts.
    """

    def __init__(self, model: Model, batch_size: int) -> None:
        shape, self._batch_size = model.config, batch_size
        self._layers = []
        for module in projections(model).values():
            weight = module.get_parameter("weight")
            layer = PackedLinear(weight.t() if is_turned(module) else weight, None, batch_size)
            self._layers.append((layer, sides(module)[0]))
        self._head = PackedLinear(model.head_weight, None, batch_size), shape.width
        rows = batch_size * PROMPT_TOKENS
        self._states = {inputs: torch.randn(rows, inputs) for _, inputs in self._layers}
        self._seen_by_text = 2 * batch_size * shape.num_kv_heads * shape.head_dim
        tokens = PROMPT_TOKENS + NEW_TOKENS
        self._seen = torch.zeros(shape.num_layers, self._seen_by_text * tokens)

    @torch.inference_mode()
    def __call__(self) -> float:
        """Return tokens per second."""
        return self._batch_size * NEW_TOKENS / seconds_of(self._once)

    def _once(self) -> None:
        for layer, inputs in self._layers:
            layer(self._states[inputs])
        step = [*self._layers, self._head]
        for tokens in range(PROMPT_TOKENS, PROMPT_TOKENS + NEW_TOKENS):
            for layer, inputs in step:
                layer(self._states[inputs][: self._batch_size])
            for seen in self._seen[:, : self._seen_by_text * tokens]:
                seen.sum()


def memory_command(contender: str, batch_size: int, flags: argparse.Namespace) -> list[str]:
    command = [sys.executable, "-m", "bench.generate", "--model", flags.model]
    command += ["--device", flags.device, "--memory-of", contender]
    return [*command, "--batch-sizes", str(batch_size)]


def memory_of(command: list[str]) -> float:
    """Return the megabytes that generation took at its peak, in a process of its own."""
    return float(json.loads(subprocess.check_output(command))["megabytes"])


def measure_memory(run: Run, is_on_gpu: bool, batch_size: int) -> float:
    run([[1, 2]], Sampling(), 2)  # threads and kernels are there
    if is_on_gpu:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run(prompts(batch_size), Sampling(), NEW_TOKENS)
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    Path("/proc/self/clear_refs").write_bytes(b"5")  # the peak begins anew; see proc(5)
    before = peak_bytes(os.getpid())
    run(prompts(batch_size), Sampling(), NEW_TOKENS)
    return (peak_bytes(os.getpid()) - before) / 1e6


def main() -> None:
    flags = parser(__doc__)
    flags.add_argument("--model", default="gpt2", choices=sorted(SHAPES))
    flags.add_argument("--memory-of", help=argparse.SUPPRESS)
    flags.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 16])
    flags.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    arguments = flags.parse_args()
    makers = {"ours": make_ours, "transformers": make_theirs}
    if arguments.device == "cpu":
        makers["ours in fp16"] = functools.partial(make_ours, kept="fp16")
    else:
        makers[ONE_BY_ONE] = functools.partial(make_ours, records=False)
        makers["ours in bf16"] = functools.partial(make_ours, kept="bf16")
    if arguments.memory_of:
        [batch_size] = arguments.batch_sizes
        run = makers[arguments.memory_of](arguments.model, arguments.device, batch_size)
        megabytes = measure_memory(run, arguments.device == "cuda", batch_size)
        print(json.dumps({"megabytes": megabytes}))
        return
    model = random_model(arguments.model) if arguments.device == "cpu" else None
    for batch_size in arguments.batch_sizes:
        where = (arguments.model, arguments.device, batch_size)
        runs = {who: make(*where) for who, make in makers.items()}
        measure_speed(runs, batch_size, model)
        measure_first_token(runs, batch_size)
        commands = {who: memory_command(who, batch_size, arguments) for who in runs}
        report(
            f"generate/memory/batch-{batch_size}",
            {who: functools.partial(memory_of, command) for who, command in commands.items()},
            baseline="transformers",
            unit="megabytes",
            higher_is_better=False,
        )


def measure_speed(runs: dict[str, Run], batch_size: int, model: Model | None) -> None:
    """Report tokens per second, greedy and sampled, and what no generation passes."""
    batch = prompts(batch_size)

    def speed(run: Run, sampling: Sampling) -> float:
        made = 0

        def once() -> None:
            nonlocal made
            made = run(batch, sampling, NEW_TOKENS)

        return made / seconds if (seconds := seconds_of(once)) else 0.0

    ceiling: dict[str, Callable[[], float]] = {}
    if model is not None:
        read = functools.partial(read_weights, model)
        ceiling["ceiling"] = read if batch_size == 1 else Bare(model, batch_size)
    for name, sampling in SETTINGS.items():
        speeds = {who: functools.partial(speed, run, sampling) for who, run in runs.items()}
        report(
            f"generate/{name}/batch-{batch_size}",
            speeds | ceiling,
            baseline="transformers",
            unit="tokens_per_second",
        )


def measure_first_token(runs: dict[str, Run], batch_size: int) -> None:
    """Report seconds to one token."""
    batch = prompts(batch_size)

    def seconds_to_token(run: Run) -> float:
        return seconds_of(lambda: run(batch, Sampling(), 1))

    report(
        f"generate/first-token/batch-{batch_size}",
        {who: functools.partial(seconds_to_token, run) for who, run in runs.items()},
        baseline="transformers",
        unit="seconds",
        higher_is_better=False,
    )


if __name__ == "__main__":
    main()
