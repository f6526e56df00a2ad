"""
Parts of a step and of a save that only a GPU shows, for bench/gpu.py.

    attention(place, batch_size=16); save_stall(place); bitwise_resume(place)
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from bench.gpu_common import Place
from instruct_core.config import PRESETS, TrainConfig
from instruct_core.model.attention import row_mask
from instruct_core.model.families import build
from instruct_core.model.family import Model
from instruct_core.train.loss import WithLoss
from instruct_core.train.optimizer import make_optimizer, optimizer_tensors, restore_optimizer
from instruct_core.train.rng import be_deterministic, restore_rng, rng_state, seed_rng

HEADS, SIZE = 12, 64
ROW_TOKENS = 128


def attention(place: Place, batch_size: int) -> None:
    """Compare the mask of packed rows with kernels that take each row's length; GPUs have those."""
    from torch.nn.attention.varlen import varlen_attn

    row_ids, starts = place.batch(batch_size, ROW_TOKENS)[3:]
    mask = row_mask(row_ids)
    shape = (batch_size, HEADS, place.seq_len, SIZE)
    q, k, v = (torch.randn(shape, device=place.device, dtype=torch.bfloat16) for _ in range(3))
    flat = [x.transpose(1, 2).reshape(-1, HEADS, SIZE).requires_grad_() for x in (q, k, v)]
    for x in (q, k, v):
        x.requires_grad_()

    def by_mask() -> torch.Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    def by_starts(longest: int) -> torch.Tensor:
        result = varlen_attn(
            flat[0], flat[1], flat[2], starts, starts, longest, longest, window_size=(-1, 0)
        )
        assert isinstance(result, torch.Tensor)
        return result

    expected = by_mask().transpose(1, 2).reshape(-1, HEADS, SIZE)
    difference = (by_starts(place.seq_len) - expected).abs().max().item()
    kinds = {
        "mask": by_mask,
        "starts of rows": lambda: by_starts(place.seq_len),
        "starts of rows, their longest known": lambda: by_starts(ROW_TOKENS),
    }
    for deterministic in (True, False):
        torch.use_deterministic_algorithms(deterministic)
        for name, run in kinds.items():
            seconds = place.seconds_of(lambda run=run: run().sum().backward())  # type: ignore[misc]
            place.emit(
                "packed attention, forward and backward",
                by=name,
                deterministic=deterministic,
                batch_size=batch_size,
                milliseconds=round(1000 * seconds, 3),
                largest_difference=difference,
            )


def save_stall(place: Place) -> None:
    """Measure the copy of weights and moments into kept pinned memory against a plain one."""
    state = [torch.randn(place.shape.num_parameters, device=place.device) for _ in range(3)]
    pinned = [torch.empty(x.shape, pin_memory=place.is_gpu) for x in state]

    def staged() -> None:
        for host, device in zip(pinned, state, strict=True):
            host.copy_(device, non_blocking=True)

    for name, run in (("pinned", staged), ("pageable", lambda: [x.cpu() for x in state])):
        seconds = place.seconds_of(run, warmup=1, steps=1)
        rate = sum(x.nbytes for x in state) / seconds / 1e9
        place.emit(
            "save stall", memory=name, seconds=round(seconds, 4), gb_per_second=round(rate, 1)
        )


def bitwise_resume(place: Place) -> None:
    """Train 20 steps with dropout, and again with a restart in between; compare all bits."""
    be_deterministic()
    device, preset = place.device, "small-demo" if place.is_gpu else "tiny"
    config = TrainConfig("bench", "", "", "", "random", preset, "")

    def fresh() -> tuple[Model, Any]:
        model = build(PRESETS[preset], dropout=0.1)
        model.initialize(1)
        model.to(device)
        return model, make_optimizer(model, config)

    def train(model: Model, optimizer: Any, steps: range) -> None:
        with_loss = WithLoss(model)
        for step in steps:
            generator = torch.Generator(device).manual_seed(step)
            shape = (4, min(256, place.seq_len))
            tokens = torch.randint(
                0, model.config.vocab_size, shape, device=device, generator=generator
            )
            where = torch.arange(shape[1], device=device).expand(shape)
            with torch.autocast(device.type, torch.bfloat16):
                loss = with_loss(tokens, tokens.roll(-1, 1), where % 64, (where // 64).int())
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
        {name: value.cpu().clone() for name, value in model.state_dict().items()},
        {name: value.cpu().clone() for name, value in optimizer_tensors(model, optimizer).items()},
        rng_state(),
    )
    seed_rng(99, 0, 0)
    model, optimizer = fresh()
    model.load_state_dict(kept[0])
    restore_optimizer(model, optimizer, kept[1])
    restore_rng(kept[2])
    train(model, optimizer, range(9, 20))
    same = all(torch.equal(expected[name], value) for name, value in model.state_dict().items())
    place.emit("bitwise resume", same=same)
