"""
    python -m bench.gpu            # one CUDA GPU, no network
    python -m bench.gpu --smoke    # on a CPU and in small, uncompiled: whether it runs, and no more

One JSON line a case: the two ceilings of this GPU (a large bf16 matrix product, a device copy); a
training step of 124M parameters at 8 to 64 x 1,024 tokens in bf16, of packed rows and of whole ones,
eager and compiled; the same without each of the things that make it fast, in turn; runs through
`finetune`, with all that a run does beside its steps, as a share of that loop; attention over packed
rows by a mask and by their lengths; what a save costs through pinned host memory; and whether a run that
is interrupted ends with the same bits under deterministic algorithms.

Model FLOP/s are by one formula everywhere, 6 N + 6 L C T a token: all weights, and causal attention over
a whole sequence, whatever its rows are. So they compare with llm.c's and modded-nanogpt's.
"""

from __future__ import annotations

import contextlib
import gc
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bench.common import parser
from bench.gpu_common import Place
from bench.gpu_parts import ROW_TOKENS, attention, bitwise_resume, save_stall
from instruct_core.config import TrainConfig
from instruct_core.model.families import build
from instruct_core.train import loss as sliced
from instruct_core.train.compiler import HOW
from instruct_core.train.loss import WithLoss
from instruct_core.train.optimizer import make_optimizer
from instruct_core.train.rng import be_deterministic

LAUNCH = Path(__file__).parents[1] / "launch"


def ceilings(place: Place) -> float:
    """Measure what this device can do at best; return matrix FLOP/s."""
    side = place.matrix
    a = torch.randn(side, side, device=place.device, dtype=torch.bfloat16)
    flops = 2 * side**3 / place.seconds_of(lambda: a @ a)
    source = torch.empty(place.copied_bytes, dtype=torch.uint8, device=place.device)
    target = torch.empty_like(source)
    copied = 2 * source.nbytes / place.seconds_of(lambda: target.copy_(source))
    place.emit(
        "ceilings", bf16_tflops=round(flops / 1e12, 1), copy_gb_per_second=round(copied / 1e9)
    )
    return flops


def flops_per_token(place: Place) -> int:
    """Return 6 N + 6 L C T."""
    shape = place.shape
    return 6 * (shape.num_parameters + shape.num_layers * shape.width * place.seq_len)


class Step:
    """
    A training step.

    Args:
        place: Where, and of which model.
        batch_size: Sequences; all in one micro-batch.
        compiled: As with --compile.
        by_mask: Attention goes by a mask, as on older GPUs, and not by the rows' starts.
        whole_rows: A sequence is one row, and not eight packed ones.
        in_float16: Products are, and not in bfloat16; nothing is scaled.
    """

    def __init__(
        self,
        place: Place,
        batch_size: int,
        compiled: bool = False,
        by_mask: bool = False,
        whole_rows: bool = False,
        in_float16: bool = False,
    ) -> None:
        self._kind = place.device.type
        self._half = torch.float16 if in_float16 else torch.bfloat16
        self._model = build(place.shape)
        self._model.initialize(1)
        self._with_loss = WithLoss(self._model.to(place.device), compiled)
        if compiled:
            self._model.compile(**HOW)
        config = TrainConfig("bench", "", "", "", "random", place.preset, "")
        self._optimizer = make_optimizer(self._model, config)
        row_tokens = place.seq_len if whole_rows else ROW_TOKENS
        batch = place.batch(batch_size, row_tokens)
        self._batch = batch if place.is_gpu and not by_mask else batch[:4]

    def __call__(self) -> None:
        with torch.autocast(self._kind, self._half):
            loss = self._with_loss(*self._batch)
        (loss / self._batch[0].numel()).backward()
        norm = torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._optimizer.step(left_out=norm.isfinite().logical_not().float())
        self._optimizer.zero_grad()


def measure_step(place: Place, case: str, ceiling: float, batch_size: int, **how: bool) -> float:
    """Measure one kind of step; return its tokens a second."""
    gc.collect()
    if place.is_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    speed = batch_size * place.seq_len / place.seconds_of(Step(place, batch_size, **how))
    peak = torch.cuda.max_memory_allocated() if place.is_gpu else 0
    tell(
        place,
        case,
        ceiling,
        speed,
        batch_size=batch_size,
        **how,
        peak_gigabytes=round(peak / 1e9, 1),
    )
    return speed


def tell(place: Place, case: str, ceiling: float, speed: float, **facts: float) -> None:
    """Print a speed in tokens a second, and what it is in FLOP/s."""
    flops = speed * flops_per_token(place)
    place.emit(
        case,
        seq_len=place.seq_len,
        **facts,
        tokens_per_second=round(speed),
        model_tflops=round(flops / 1e12, 1),
        share_of_matrix_ceiling=round(flops / ceiling, 3),
    )


def training_steps(place: Place, ceiling: float) -> dict[bool, float]:
    """Measure all kinds of steps; return the speeds that runs are held against, by `compiled`."""
    speeds = {}
    for compiled in (False, True) if place.is_gpu else (False,):
        for batch_size in (8, 16, 32, 64) if place.is_gpu else (2,):
            speed = measure_step(place, "training step", ceiling, batch_size, compiled=compiled)
            if batch_size == run_batch_size(place):
                speeds[compiled] = speed
            measure_step(
                place, "training step", ceiling, batch_size, compiled=compiled, whole_rows=True
            )
    size = run_batch_size(place)
    measure_step(place, "training step, attention by a mask", ceiling, size, by_mask=True)
    with changed(sliced.HEAD_MULTIPLE, place, 1):
        measure_step(place, "training step, 50,257 words as they are", ceiling, size)
    with changed(sliced.SLICE_TOKENS, place, 512):
        measure_step(place, "training step, loss by 512 tokens", ceiling, size)
    if place.is_gpu:
        measure_step(place, "training step, --precision fp16", ceiling, size, in_float16=True)
        with changed(sliced.COMPILED_SLICE_TOKENS, place, 2048):
            measure_step(place, "training step, loss by 2,048 tokens", ceiling, size, compiled=True)
    torch.use_deterministic_algorithms(False)
    measure_step(place, "training step, --no-deterministic", ceiling, size)
    torch.use_deterministic_algorithms(place.is_gpu)
    return speeds


def run_batch_size(place: Place) -> int:
    """Return the sequences of a step of a run, all in one micro-batch."""
    return 32 if place.is_gpu else 2


@contextlib.contextmanager
def changed(setting: dict[str, int], place: Place, value: int) -> Iterator[None]:
    """Have the loss use another value on this kind of device."""
    kind = place.device.type
    usual = setting[kind]
    setting[kind] = value
    yield
    setting[kind] = usual


def runs(place: Place, ceiling: float, of_loop: dict[bool, float]) -> None:
    """Train through `finetune`, on the rows that come along; the loop is what it is beside."""
    with tempfile.TemporaryDirectory() as folder:
        launch(folder, "preprocess", "--source=builtin", "--out=shards", "--num-tasks=2")
        for compiled, in_loop in of_loop.items():
            name = "compiled" if compiled else "eager"
            launch(folder, "finetune", f"--run={name}", *run_flags(place, compiled))
            events = EventAccumulator(str(Path(folder, "runs_instruct", name)))
            events.Reload()
            points = events.Scalars("train/tokens_per_second")[place.run_steps // 4 :]
            speed = statistics.median(point.value for point in points)
            facts = {"steps": place.run_steps, "batch_size": run_batch_size(place)}
            tell(
                place, "run through finetune", ceiling, speed, **facts, compiled=compiled,
                of_the_loop=round(speed / in_loop, 3),
            )  # fmt: skip


def run_flags(place: Place, compiled: bool) -> list[str]:
    """Return what is typed for a run."""
    size = run_batch_size(place)
    rare = 10 * place.run_steps
    return [
        "--shards=shards", "--gpus=1", "--init=random", f"--model={place.preset}",
        f"--max-steps={place.run_steps}", f"--seq-len={place.seq_len}", "--precision=bf16",
        f"--micro-batch-size={size}", f"--tokens-per-step={size * place.seq_len}",
        f"--eval-every={rare}", f"--save-every={rare}", *(["--compile"] if compiled else []),
    ]  # fmt: skip


def launch(folder: str, verb: str, *flags: str) -> None:
    """Run a launcher on this machine; what it says goes to stderr."""
    command = [sys.executable, str(LAUNCH / f"{verb}.py"), *flags, "--cluster=local"]
    subprocess.run(command, cwd=folder, check=True, stdout=sys.stderr)


def main() -> int:
    flags = parser(__doc__)
    flags.add_argument("--smoke", action="store_true", help="on a CPU, in small")
    smoke = flags.parse_args().smoke
    if not smoke and not torch.cuda.is_available():
        print("error: bench.gpu needs a CUDA GPU, and torch sees none.", file=sys.stderr)
        return 2
    be_deterministic()
    place = Place.found(smoke)
    ceiling = ceilings(place)
    of_loop = training_steps(place, ceiling)
    runs(place, ceiling, of_loop)
    if place.is_gpu:
        attention(place, batch_size=16)
    save_stall(place)
    bitwise_resume(place)
    return 0


if __name__ == "__main__":
    sys.exit(main())
