"""
    python -m bench.products

What oneDNN gives on this processor, in the processor time of the main thread: so programs beside it do
not count, and what one of two threads does for it is not its time. A training step with products by
oneDNN beside torch's usual library, on one thread; and one row and sixteen through the matrices of GPT-2
of 124M parameters, plain and packed, on two threads, beside reading them and nothing else.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable

# Threads that spin while they wait would count as if they computed; read when torch starts.
os.environ["GOMP_SPINCOUNT"] = "100"

import torch
import torch.nn.functional as F

from bench.common import parser, report
from bench.lora import Steps, loss_of_ours
from bench.shapes import random_model
from instruct_core.model.packed import PackedLinear
from instruct_core.model.products import ONEDNN, USUAL, is_exact, is_quicker, products_by
from jobs.world import keep_freed_memory

STEPS = {"gpt2": (1, 512), "small-demo": (4, 256), "smollm2": (1, 256)}
MATRICES = {"head": (768, 50257, 1), "mlp.c_fc": (768, 3072, 12), "mlp.c_proj": (3072, 768, 12)}


def main_seconds(run: Callable[[], object]) -> float:
    """Return the processor time of this thread for one call."""
    started_at = time.thread_time()
    run()
    return time.thread_time() - started_at


def measure_steps(name: str) -> None:
    model = random_model(name)
    steps = Steps(model, loss_of_ours(model), torch.randint(0, 49152, STEPS[name]))

    def seconds(library: str) -> float:
        with products_by(library):
            return main_seconds(steps.step)

    contenders = {library: functools.partial(seconds, library) for library in (USUAL, ONEDNN)}
    report(f"products/step/{name}", contenders, USUAL, "seconds", higher_is_better=False)


@torch.inference_mode()
def measure_rows(name: str, rows: int) -> None:
    """Report seconds of so many rows through matrices that together exceed the caches."""
    inputs, outputs, count = MATRICES[name]
    x, bias = torch.randn(rows, inputs), torch.randn(outputs)
    plain = [torch.randn(outputs, inputs) for _ in range(count)]
    packed = [PackedLinear(weight, bias, rows) for weight in plain]
    contenders: dict[str, Callable[[], float]] = {
        "plain": lambda: main_seconds(lambda: [F.linear(x, w, bias) for w in plain]),
        "packed": lambda: main_seconds(lambda: [layer(x) for layer in packed]),
        "read": lambda: main_seconds(lambda: [w.sum() for w in plain]),
    }
    for run in contenders.values():
        run()
    report(f"products/{name}/rows-{rows}", contenders, "plain", "seconds", higher_is_better=False)


def main() -> None:
    """Measure and print."""
    parser(__doc__).parse_args()
    keep_freed_memory()
    print(f"oneDNN is quicker here: {is_quicker()}, and exact: {is_exact()}")
    torch.set_num_threads(2)
    for name in MATRICES:
        for rows in (1, 16):
            measure_rows(name, rows)
    torch.set_num_threads(1)
    for name in STEPS:
        measure_steps(name)


if __name__ == "__main__":
    main()
