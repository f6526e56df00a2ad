"""
Training in float16: its loss is scaled, the scale is part of the run, and nothing is lost by it.

Few processors compute in float16, and torch's own loops take a hundred times as long: models are small.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from instruct_core.checkpoints.manifest import Scale
from instruct_core.config import PRESETS, TrainConfig
from instruct_core.data.batches import IGNORED
from instruct_core.errors import ConfigError, NonFiniteError
from instruct_core.lora_settings import Lora
from instruct_core.model.families import build
from instruct_core.model.gpt2 import GPT2
from instruct_core.model.lora import adapt
from instruct_core.shape import with_vocabulary
from instruct_core.train import loss, precision
from instruct_core.train.loss import WithLoss, summed_loss
from instruct_core.train.precision import FIRST_SCALE, STEPS_TO_DOUBLE, LossScale
from instruct_core.train.softmax import Room, in_place
from tests.forked_ranks import in_ranks
from tests.instruct_core.train import desk as in_one_process
from tests.instruct_core.train.desk import Desk, poison
from tests.instruct_core.train.test_recomputed import CONFIG, WITH_LORA, attempt
from tests.instruct_core.train.test_sharding import bits, newest

CPU = torch.device("cpu")
HALF = replace(CONFIG, precision="fp16", max_steps=7, save_every=3, eval_every=100, decay_steps=7)
SMALL = {"num_layers": 1, "width": 32, "num_heads": 2, "vocab_size": 500}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "tiny", replace(PRESETS["tiny"], **SMALL))
    llama = {"head_dim": 16, "num_kv_heads": 1, "mlp_width": 64}
    monkeypatch.setitem(PRESETS, "tiny-llama", replace(PRESETS["tiny-llama"], **SMALL, **llama))


@pytest.fixture
def small_desk(tmp_path: Path, shard_set: Path) -> Desk:
    return desk_in(tmp_path, shard_set)


def desk_in(folder: Path, shard_set: Path) -> Desk:
    desk = Desk(folder, shard_set)
    desk.model = GPT2(replace(PRESETS["tiny"], vocab_size=1000))
    desk.model.initialize(1)
    return desk


def scale_in(folder: Path) -> tuple[float, int]:
    scale = newest(folder).manifest.loss_scale
    assert scale is not None
    return scale.value, scale.steps


def all_of(folder: Path) -> list[Any]:
    return [*bits(folder), asdict(newest(folder).manifest.progress), *scale_in(folder)]


def noted(scale: LossScale, *left_out: int) -> Scale:
    for each in left_out:
        scale.note(torch.tensor(float(each)))
    return scale.state


def test_scale_is_halved_by_an_overflow_and_doubled_by_many_steps_without_one() -> None:
    scale = LossScale(CPU, None)

    assert noted(scale) == Scale(FIRST_SCALE, 0)
    assert noted(scale, 0, 0, 1) == Scale(FIRST_SCALE / 2, 0)
    assert noted(scale, *[0] * (STEPS_TO_DOUBLE - 1)) == Scale(FIRST_SCALE / 2, STEPS_TO_DOUBLE - 1)
    assert noted(scale, 0) == Scale(FIRST_SCALE, 0)
    assert noted(scale, *[1] * 100) == Scale(1.0, 0)
    assert noted(scale, 0) == Scale(1.0, 1)
    assert noted(LossScale(CPU, Scale(2.0**24, STEPS_TO_DOUBLE - 1)), 0) == Scale(2.0**24, 0)


@pytest.mark.parametrize(
    ("config", "world_size"),
    [
        (HALF, 1),
        (replace(HALF, dropout=0.1, activation_checkpointing="on"), 2),
        (replace(HALF, model="tiny-llama", shard="full"), 2),
        (replace(WITH_LORA, **{n: getattr(HALF, n) for n in ("precision", "max_steps")}), 2),
    ],
    ids=["gpt2", "recomputed", "llama in parts", "lora"],
)
def test_run_in_float16_ends_with_the_same_bits_after_a_resume(
    tmp_path: Path,
    shard_set: Path,
    config: TrainConfig,
    world_size: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first steps overflow, later ones double: a resume must find the scale and the count."""
    monkeypatch.setattr(precision, "FIRST_SCALE", 2.0**22)
    monkeypatch.setattr(precision, "STEPS_TO_DOUBLE", 2)

    def work(rank: int) -> list[Any]:
        attempt(tmp_path / "whole", shard_set, config)
        scales = []
        for steps in (1, 2, 3, 4, 5, 6, 7):
            attempt(tmp_path / "hit", shard_set, replace(config, max_steps=steps))
            scales.append(scale_in(tmp_path / "hit"))
        return [all_of(tmp_path / "whole"), all_of(tmp_path / "hit"), scales]

    for whole, hit, scales in in_ranks(world_size, work):
        assert hit == whole
        assert len({value for value, _ in scales}) > 2
        assert {steps for _, steps in scales} == {0, 1}


def test_run_in_another_precision_keeps_no_scale(tmp_path: Path, shard_set: Path) -> None:
    attempt(tmp_path, shard_set, replace(HALF, precision="bf16", max_steps=1))

    assert b"loss_scale" not in (tmp_path / "step-00000001" / "manifest.json").read_bytes()


def test_step_that_overflows_is_left_out_and_told(
    small_desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "FIRST_SCALE", 2.0**21)
    factors: list[float] = []

    def with_factor(*given: Any) -> Tensor:
        if given[0].requires_grad:
            factors.append(given[-1].item())
        return summed_loss(*given)

    monkeypatch.setattr(loss, "summed_loss", with_factor)
    trainer = small_desk.trainer(replace(in_one_process.CONFIG, precision="fp16", max_steps=6))

    assert trainer.run() == "finished"

    tokens = [report.values["train/loss_tokens"] for report in small_desk.reports]
    scales = [report.values["train/loss_scale"] for report in small_desk.reports]
    made = [report.values["train/grad_norm"] < float("inf") for report in small_desk.reports]
    assert scales[0] == 2.0**21
    assert not made[0]
    assert made[-1]
    for before, after, was_made in zip(scales, scales[1:], made, strict=False):
        assert after == (before if was_made else before / 2)
    assert trainer.progress.skipped_steps == made.count(False)
    of_steps = [scale / count for scale, count in zip(scales, tokens, strict=True)]
    assert factors == pytest.approx([each for each in of_steps for _ in range(2)])


def test_run_in_float16_reports_what_one_in_float32_does(tmp_path: Path, shard_set: Path) -> None:
    told = []
    for way in ("fp16", "fp32"):
        desk = desk_in(tmp_path / way, shard_set)
        config = replace(in_one_process.CONFIG, precision=way, max_steps=3)
        assert desk.trainer(config).run() == "finished"
        names = ("train/loss", "train/grad_norm")
        told.append([report.values[name] for report in desk.reports for name in names])

    assert told[0] == pytest.approx(told[1], rel=1e-2)


def test_steps_in_a_row_end_a_run_when_its_scale_cannot_be_smaller(small_desk: Desk) -> None:
    poison(small_desk.model, set(range(1000)))
    config = replace(in_one_process.CONFIG, precision="fp16", max_steps=50)

    with pytest.raises(NonFiniteError) as ended:
        small_desk.trainer(config).run()

    assert "had 17 steps in a row without a finite gradient" in str(ended.value)  # 2**16 to 2**0
    assert "another --run in bf16 or fp32, which have more range than fp16" in str(ended.value)


def gradients_of(model: nn.Module, half: torch.dtype | None, factor: Tensor) -> list[Tensor]:
    """Return what a model learns from some tokens, of the loss times a factor."""
    model.zero_grad()
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, 500, (2, 64), generator=generator)
    places, rows = torch.arange(64).expand(2, 64), torch.zeros(2, 64, dtype=torch.int64)
    with torch.autocast("cpu", half, enabled=half is not None):
        given = factor if half is not None else None
        summed = model(tokens, tokens.roll(-1, 1), places, rows, None, None, given)
    (summed * factor).backward()
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


def error(found: list[Tensor], expected: list[Tensor]) -> float:
    """Return the largest error of a gradient, as a share of its norm."""
    pairs = zip(found, expected, strict=True)
    return max(float((a - b).norm() / b.norm()) for a, b in pairs)


def test_gradients_that_float16_has_no_numbers_for_are_there_with_a_scaled_loss() -> None:
    """Of a step of many tokens each is a millionth of the loss, and rounds to nothing."""
    model = WithLoss(build(with_vocabulary(PRESETS["tiny"], 500)))
    model.model.initialize(1)
    share = torch.tensor(1e-7)
    scale = LossScale(CPU, None)

    expected = [each.clone() for each in gradients_of(model, None, share)]
    scaled = gradients_of(model, torch.float16, share * scale.value)
    scale.take_off(scaled)
    scaled_error = error(scaled, expected)

    assert scaled_error < 0.02
    assert error(gradients_of(model, torch.float16, share), expected) > 10 * scaled_error


@pytest.mark.parametrize("how", ["as written", "in a room", "left out"])
def test_loss_with_a_factor_has_the_gradients_of_the_loss_times_it(how: str) -> None:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(2, 32, 16, generator=generator, requires_grad=True)
    head = torch.randn(300, 16, generator=generator, requires_grad=True)
    targets = torch.randint(0, 300, (2, 32), generator=generator)
    targets[0, 5:20] = IGNORED
    learnt = torch.nonzero(targets.flatten() != IGNORED).squeeze(1) if how == "left out" else None
    room, factor = Room() if how == "in a room" else None, torch.tensor(3.0)
    found = []
    for given in (None, factor):
        hidden.grad = head.grad = None
        summed = summed_loss(hidden, head, targets, learnt, False, room, given)
        (summed * factor).backward()
        found.append([summed.detach(), hidden.grad, head.grad])

    for plain, scaled in zip(*found, strict=True):
        assert plain is not None
        assert scaled is not None
        torch.testing.assert_close(scaled, plain)


def test_gradient_of_one_pass_is_that_of_the_loss_times_a_factor() -> None:
    logits, targets = torch.randn(6, 30), torch.tensor([1, 2, IGNORED, 3, 29, 0])
    plain, scaled = logits.clone(), logits.clone()

    losses = [in_place(plain, targets), in_place(scaled, targets, torch.tensor(8.0))]

    assert torch.equal(*losses)
    assert torch.equal(scaled, 8 * plain)


def test_gradient_of_a_head_that_float16_has_no_number_for_is_finite_with_a_small_factor() -> None:
    """All tokens are of one word, and their states large: what it learns is their sum."""
    hidden = torch.full((1, 512, 16), 500.0, requires_grad=True)
    head = torch.zeros(300, 16, requires_grad=True)
    targets, found = torch.zeros(1, 512, dtype=torch.int64), []
    for factor in (1.0, 2.0**-6):
        head.grad = None
        with torch.autocast("cpu", torch.float16):
            summed = summed_loss(hidden, head, targets, factor=torch.tensor(factor))
        (summed * factor).backward()
        assert head.grad is not None
        found.append(head.grad[0] / factor)

    assert not found[0].isfinite().all()
    torch.testing.assert_close(
        found[1], torch.full((16,), -512 * 500 * 299 / 300), rtol=1e-2, atol=0
    )


def test_weight_of_a_base_that_float16_has_no_number_for_is_refused_by_name() -> None:
    model = build(with_vocabulary(PRESETS["tiny"], 500))
    model.initialize(1)
    with torch.no_grad():
        model.get_parameter("transformer.h.0.mlp.c_fc.weight")[0, 0] = 7e4

    with pytest.raises(ConfigError, match=r"has numbers up to 65,504, and \S*mlp.c_fc .* 70,000"):
        adapt(model, Lora(2, 4.0, "all"), dropout=0.0, half=torch.float16)
