"""
    python -m bench.gpu            # one CUDA GPU, no network

One JSON line a case: the two ceilings of this GPU (a large bf16 matrix product, a device copy); a
training step of 124M parameters at 8 to 64 x 1,024 tokens in bf16, as a run makes it, eager and
compiled; the same without each of the things that make it fast, in turn; attention over packed rows
by a mask and by their lengths; what a save costs through pinned host memory; and whether a run that
is interrupted ends with the same bits under deterministic algorithms.
"""

from __future__ import annotations

import contextlib
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention.varlen import varlen_attn

from bench.common import parser
from instruct_core.config import PRESETS, TrainConfig
from instruct_core.data.batches import row_starts
from instruct_core.model.family import row_mask
from instruct_core.model.gpt2 import GPT2
from instruct_core.train import loss as sliced
from instruct_core.train.loss import WithLoss
from instruct_core.train.metrics import flops_per_token
from instruct_core.train.optimizer import make_optimizer, optimizer_tensors, restore_optimizer
from instruct_core.train.rng import be_deterministic, restore_rng, rng_state, seed_rng

GPU = torch.device("cuda", 0)
SEQ_LEN = 1024
ROW_TOKENS = 128  # rows of Alpaca's length, eight in a sequence
REPEATS = 5


def emit(case: str, **figures: Any) -> None:
    """Print one case."""
    print(json.dumps({"bench": "gpu", "case": case, "gpu": GPU_NAME, **figures}), flush=True)


def seconds_of(run: Callable[[], object], warmup: int = 2, steps: int = 4) -> float:
    """Return the median seconds of one call, the GPU's queue included."""
    for _ in range(warmup):
        run()
    times = []
    for _ in range(REPEATS):
        torch.cuda.synchronize()
        started_at = time.perf_counter()
        for _ in range(steps):
            run()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - started_at) / steps)
    return statistics.median(times)


def ceilings() -> float:
    """Measure what this GPU can do at best; return matrix FLOP/s."""
    a = torch.randn(8192, 8192, device=GPU, dtype=torch.bfloat16)
    flops = 2 * 8192**3 / seconds_of(lambda: a @ a)
    source = torch.empty(1 << 30, dtype=torch.uint8, device=GPU)
    target = torch.empty_like(source)
    copied = 2 * source.nbytes / seconds_of(lambda: target.copy_(source))
    emit("ceilings", bf16_tflops=round(flops / 1e12, 1), copy_gb_per_second=round(copied / 1e9))
    return flops


def packed_batch(batch_size: int) -> list[torch.Tensor]:
    """Return tokens, targets, positions and row ids of packed rows, (B, T), and their starts."""
    tokens = torch.randint(0, 50257, (batch_size, SEQ_LEN), device=GPU)
    place = torch.arange(SEQ_LEN, device=GPU).expand(batch_size, SEQ_LEN)
    row_ids = (place // ROW_TOKENS).int()
    starts = torch.from_numpy(row_starts(row_ids.cpu().numpy())).to(GPU)
    return [tokens, tokens.roll(-1, 1), place % ROW_TOKENS, row_ids, starts]


class Step:
    """
    A training step of 124M parameters.

    Args:
        batch_size: Sequences; all in one micro-batch.
        compiled: As with --compile.
        by_mask: Attention goes by a mask, as on older GPUs, and not by the rows' starts.
    """

    def __init__(self, batch_size: int, compiled: bool = False, by_mask: bool = False) -> None:
        self._model = GPT2(PRESETS["gpt2"])
        self._model.initialize(1)
        self._with_loss = WithLoss(self._model.to(GPU))
        if compiled:
            self._model.compile(dynamic=False)
        config = TrainConfig("bench", "", "", "", "random", "gpt2", "")
        self._optimizer = make_optimizer(self._model, config)
        self._batch = packed_batch(batch_size)[: 4 if by_mask else 5]

    def __call__(self) -> None:
        with torch.autocast("cuda", torch.bfloat16):
            loss = self._with_loss(*self._batch)
        (loss / self._batch[0].numel()).backward()
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad()


def measure_step(case: str, ceiling: float, batch_size: int, **how: bool) -> None:
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    speed = batch_size * SEQ_LEN / seconds_of(Step(batch_size, **how))
    emit(
        case,
        batch_size=batch_size,
        seq_len=SEQ_LEN,
        **how,
        tokens_per_second=round(speed),
        # Attention inside rows is all that has to be computed.
        share_of_matrix_ceiling=round(
            speed * flops_per_token(PRESETS["gpt2"], ROW_TOKENS) / ceiling, 3
        ),
        peak_gigabytes=round(torch.cuda.max_memory_allocated() / 1e9, 1),
    )


def training_steps(ceiling: float) -> None:
    for compiled in (False, True):
        for batch_size in (8, 16, 32, 64):
            measure_step("training step", ceiling, batch_size, compiled=compiled)
    measure_step("training step, attention by a mask", ceiling, 32, by_mask=True)
    with changed(sliced.HEAD_MULTIPLE, 1):
        measure_step("training step, 50,257 words as they are", ceiling, 32)
    with changed(sliced.SLICE_TOKENS, 512):
        measure_step("training step, loss by 512 tokens", ceiling, 32)
    torch.use_deterministic_algorithms(False)
    measure_step("training step, --no-deterministic", ceiling, 32)


@contextlib.contextmanager
def changed(setting: dict[str, int], value: int) -> Iterator[None]:
    """Have the loss use another value on GPUs."""
    usual = setting["cuda"]
    setting["cuda"] = value
    yield
    setting["cuda"] = usual


def attention(batch_size: int) -> None:
    """Compare the mask of packed rows with kernels that take each row's length."""
    heads, size = 12, 64
    row_ids = packed_batch(batch_size)[3]
    mask = row_mask(row_ids)
    shape = (batch_size, heads, SEQ_LEN, size)
    q, k, v = (torch.randn(shape, device=GPU, dtype=torch.bfloat16) for _ in range(3))
    flat = [x.transpose(1, 2).reshape(-1, heads, size).requires_grad_() for x in (q, k, v)]
    starts = packed_batch(batch_size)[4]
    for x in (q, k, v):
        x.requires_grad_()

    def by_mask() -> torch.Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    def by_starts() -> torch.Tensor:
        result: torch.Tensor = varlen_attn(
            flat[0], flat[1], flat[2], starts, starts, SEQ_LEN, SEQ_LEN, window_size=(-1, 0)
        )
        return result

    expected = by_mask().transpose(1, 2).reshape(-1, heads, size)
    difference = (by_starts() - expected).abs().max().item()
    for deterministic in (True, False):
        torch.use_deterministic_algorithms(deterministic)
        for name, run in (("mask", by_mask), ("starts of rows", by_starts)):
            seconds = seconds_of(lambda run=run: run().sum().backward())  # type: ignore[misc]
            emit(
                "packed attention, forward and backward",
                by=name,
                deterministic=deterministic,
                batch_size=batch_size,
                milliseconds=round(1000 * seconds, 3),
                largest_difference=difference,
            )


def save_stall() -> None:
    """Measure the copy of weights and moments into kept pinned memory against a plain one."""
    state = [torch.randn(124_439_808, device=GPU) for _ in range(3)]
    pinned = [torch.empty(x.shape, pin_memory=True) for x in state]

    def staged() -> None:
        for host, device in zip(pinned, state, strict=True):
            host.copy_(device, non_blocking=True)

    for name, run in (("pinned", staged), ("pageable", lambda: [x.cpu() for x in state])):
        seconds = seconds_of(run, warmup=1, steps=1)
        rate = sum(x.nbytes for x in state) / seconds
        emit(
            "save stall", memory=name, seconds=round(seconds, 4), gb_per_second=round(rate / 1e9, 1)
        )


def bitwise_resume() -> None:
    """Train 20 steps with dropout, and again with a restart in between; compare all bits."""
    be_deterministic()
    config = TrainConfig("bench", "", "", "", "random", "small-demo", "")

    def fresh() -> tuple[GPT2, Any]:
        model = GPT2(PRESETS["small-demo"], dropout=0.1)
        model.initialize(1)
        model.to(GPU)
        return model, make_optimizer(model, config)

    def train(model: GPT2, optimizer: Any, steps: range) -> None:
        with_loss = WithLoss(model)
        for step in steps:
            generator = torch.Generator(GPU).manual_seed(step)
            tokens = torch.randint(0, 50257, (4, 256), device=GPU, generator=generator)
            place = torch.arange(256, device=GPU).expand(4, 256)
            with torch.autocast("cuda", torch.bfloat16):
                loss = with_loss(tokens, tokens.roll(-1, 1), place % 64, (place // 64).int())
            (loss / tokens.numel()).backward()
            optimizer.step()
            optimizer.zero_grad()

    seed_rng(1, 0, 0)
    model, optimizer = fresh()
    train(model, optimizer, range(20))
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    seed_rng(1, 0, 0)
    model, optimizer = fresh()
    train(model, optimizer, range(9))
    kept = (
        {name: value.cpu() for name, value in model.state_dict().items()},
        {name: value.cpu() for name, value in optimizer_tensors(model, optimizer).items()},
        rng_state(),
    )
    seed_rng(99, 0, 0)
    model, optimizer = fresh()
    model.load_state_dict(kept[0])
    restore_optimizer(model, optimizer, kept[1])
    restore_rng(kept[2])
    train(model, optimizer, range(9, 20))
    same = all(torch.equal(expected[name], value) for name, value in model.state_dict().items())
    emit("bitwise resume", same=same)


def main() -> int:
    parser(__doc__).parse_args()
    if not torch.cuda.is_available():
        print("error: bench.gpu needs a CUDA GPU, and torch sees none.", file=sys.stderr)
        return 2
    global GPU_NAME  # noqa: PLW0603  known only once there is a GPU
    GPU_NAME = torch.cuda.get_device_name(GPU)
    be_deterministic()
    training_steps(ceilings())
    attention(16)
    save_stall()
    bitwise_resume()
    return 0


GPU_NAME = ""

if __name__ == "__main__":
    sys.exit(main())
