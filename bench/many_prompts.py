"""
    python -m bench.many_prompts        # GPT-2 of 124M parameters; --model smollm2 for a Llama's shape
    python -m bench.many_prompts --device cuda

A file of prompts whose answers differ in length, sixteen side by side, 256 of 1,024 on a GPU: ours, where
a text that waits takes the place of one that ended; ours in batches, each as long as its longest answer;
on a GPU ours without recorded steps; and transformers.generate in such batches. Greedy, with the same
random weights and threads. A token counts that was asked for: lengths are drawn, most of them short, and
transformers makes those of a batch as long as its longest. Both take the prompts in the order of their
lengths.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from bench.common import parser, report, seconds_of
from bench.generate import NUM_WORDS, ONE_BY_ONE, endless
from bench.shapes import SHAPES, random_model
from instruct_core.answers.generation import generate
from instruct_core.model.family import Model
from instruct_core.model.weights import ready

SIZES = {"cpu": (48, 16), "cuda": (1024, 256)}  # prompts, and how many side by side
LONGEST_PROMPT = 128
MEAN_ANSWER, LONGEST_ANSWER = 32, 128


@dataclass(frozen=True)
class Many:
    """Prompts in the order of their lengths, how long the answer to each is, how many grow at a time."""

    side_by_side: int
    prompts: list[list[int]]
    lengths: list[int]

    @classmethod
    def drawn(cls, count: int, side_by_side: int) -> Many:
        draw = np.random.default_rng(0)
        sizes = sorted(draw.integers(16, LONGEST_PROMPT, size=count).tolist())
        words = [draw.integers(NUM_WORDS, size=size).tolist() for size in sizes]
        return cls(
            side_by_side,
            words,
            draw.geometric(1 / MEAN_ANSWER, size=count).clip(1, LONGEST_ANSWER).tolist(),
        )

    def ours(self, model: Model, begin: int, end: int) -> int:
        """Answer some of them, and return how many tokens that took."""
        lengths, made = self.lengths[begin:end], [0] * (end - begin)

        def goes_on(text: int, _: int) -> bool:
            made[text] += 1
            return made[text] < lengths[text]

        generate(
            model, self.prompts[begin:end], side_by_side=self.side_by_side,
            max_new_tokens=LONGEST_ANSWER, on_token=goes_on,
        )  # fmt: skip
        return sum(made)

    def theirs(self, model: Any, begin: int, end: int) -> int:
        """Answer some of them side by side, each up to the longest answer among them."""
        longest = max(map(len, self.prompts[begin:end]))
        padded = [[0] * (longest - len(prompt)) + prompt for prompt in self.prompts[begin:end]]
        is_word = [[0] * (longest - len(p)) + [1] * len(p) for p in self.prompts[begin:end]]
        model.generate(
            torch.tensor(padded, device=model.device),
            attention_mask=torch.tensor(is_word, device=model.device),
            max_new_tokens=max(self.lengths[begin:end]), do_sample=False,
        )  # fmt: skip
        return sum(self.lengths[begin:end])


def main() -> None:
    flags = parser(__doc__)
    flags.add_argument("--model", default="gpt2", choices=sorted(SHAPES))
    flags.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    arguments = flags.parse_args()
    on_gpu = torch.cuda.is_available()
    assert arguments.device == ("cuda" if on_gpu else "cpu"), "where ready() puts ours"
    many = Many.drawn(*SIZES[arguments.device])
    ours = functools.partial(many.ours, ready(random_model(arguments.model), many.side_by_side))
    count = len(many.prompts)
    theirs = functools.partial(many.theirs, endless(arguments.model, arguments.device))

    def speed(answer: Callable[[int, int], int], at_a_time: int) -> float:
        begins = range(0, count, at_a_time)
        made = list[int]()
        seconds = seconds_of(
            lambda: made.extend(answer(begin, begin + at_a_time) for begin in begins)
        )
        return sum(made) / seconds

    sides: dict[str, Callable[[], float]] = {
        "ours": lambda: speed(ours, count),
        "ours, batch after batch": lambda: speed(ours, many.side_by_side),
        "transformers": lambda: speed(theirs, many.side_by_side),
    }
    if on_gpu:
        unrecorded = ready(random_model(arguments.model))
        unrecorded.recorder = None
        launched = functools.partial(many.ours, unrecorded)
        sides[ONE_BY_ONE] = lambda: speed(launched, count)
    report(
        "many_prompts",
        sides,
        baseline="transformers",
        unit="tokens_per_second",
    )


if __name__ == "__main__":
    main()
