"""
    python -m bench.busy_cores

What a program that computes on every core costs ours, as on a login node: sixteen texts of the demo's
model that grow by sixteen tokens, one of 124M parameters that grows by 32, and a forward and backward,
with threads that soon sleep while they wait for each other (GOMP_SPINCOUNT=20000, as the launchers set
it), that sleep sooner still, and that spin (the default). All on quiet cores too.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial

from bench.common import parser, report, seconds_of
from launch.cluster.machine import THREADS

NUM_CORES = len(os.sched_getaffinity(0))
POLICIES = {"sleep": THREADS["GOMP_SPINCOUNT"], "sooner": "5000", "spin": ""}
WORKS = ("generate", "chat", "train")
SPINNER = "while True: pass"


@contextlib.contextmanager
def neighbours(count: int) -> Iterator[None]:
    """Keep other programs computing."""
    others = [subprocess.Popen([sys.executable, "-c", SPINNER]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def measure(work: str, policy: str) -> float:
    """Return the seconds of one piece of work, in a process of its own."""
    env = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    if POLICIES[policy]:
        env["GOMP_SPINCOUNT"] = POLICIES[policy]
    command = [sys.executable, "-m", "bench.busy_cores", "--work", work]
    return float(subprocess.check_output(command, env=env))


def do(work: str) -> float:
    import torch

    from instruct_core.answers.generation import generate
    from instruct_core.config import PRESETS
    from instruct_core.model.families import build
    from instruct_core.model.weights import ready
    from instruct_core.train.loss import WithLoss
    from jobs.world import keep_freed_memory

    keep_freed_memory()
    torch.set_num_threads(NUM_CORES)
    model = build(PRESETS["gpt2" if work == "chat" else "small-demo"])
    model.initialize(seed=0)
    with_loss = WithLoss(model)
    tokens = torch.arange(4 * 256).view(4, 256)
    positions = torch.arange(256).expand(4, 256)

    def grow() -> None:
        generate(model.eval(), [list(range(64))] * 16, max_new_tokens=16)

    def answer() -> None:
        generate(model, [list(range(64))], max_new_tokens=32)

    def step() -> None:
        with_loss(tokens, tokens.roll(-1, 1), positions, torch.zeros_like(positions)).backward()

    if work == "chat":
        ready(model)
    run = {"generate": grow, "chat": answer, "train": step}[work]
    run()
    return seconds_of(run)


def main() -> None:
    flags = parser(__doc__)
    flags.add_argument("--work", choices=WORKS, help=argparse.SUPPRESS)
    arguments = flags.parse_args()
    if arguments.work:
        print(do(arguments.work))
        return
    for work in WORKS:
        for cores, count in (("quiet", 0), ("busy", NUM_CORES)):
            with neighbours(count):
                report(
                    f"busy_cores/{work}/{cores}",
                    {policy: partial(measure, work, policy) for policy in POLICIES},
                    baseline="spin",
                    unit="seconds",
                    higher_is_better=False,
                )


if __name__ == "__main__":
    main()
