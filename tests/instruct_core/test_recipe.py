"""A hyperparameter is written once: its rule, and whether a run keeps it for life."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from instruct_core.config import TrainConfig, describe, from_json, identity_of, to_json
from instruct_core.errors import ConfigError
from instruct_core.recipe import Recipe

CONFIG = TrainConfig("r", "s", "c", "t", "random", "tiny", "f")


@pytest.mark.parametrize(
    ("setting", "value", "rule"),
    [
        ("max_steps", 0, "--max-steps must be at least 1, got 0."),
        ("micro_batch_size", 0, "--micro-batch-size must be at least 1, got 0."),
        ("seq_len", 1, "--seq-len must be at least 2, got 1."),
        ("dropout", 1.0, "--dropout must be from 0 up to but not including 1, got 1.0."),
        ("epsilon", float("inf"), "--epsilon must be more than 0, and finite, got inf."),
        ("dropout", float("inf"), "--dropout must be from 0 up to but not including 1, got inf."),
        ("save_every_minutes", float("nan"), "--save-every-minutes must be more than 0, got nan."),
        ("seed", 2**63, "--seed must be at least 0 and less than 2**63, got"),
        ("weight_decay", float("inf"), "--weight-decay must be at least 0, and finite, got inf."),
        (
            "weight_decay",
            5e4,
            "--weight-decay times --learning-rate must be below 1, or a step takes",
        ),
        ("min_learning_rate", 1.0, "--min-learning-rate must be between 0 and --learning-rate"),
    ],
)
def test_value_that_makes_sense_nowhere_is_refused(setting: str, value: Any, rule: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Recipe(**{setting: value}).check()

    assert str(refused.value).startswith(rule)


def test_defaults_are_good() -> None:
    Recipe().check()


def test_a_run_keeps_what_decides_its_weights() -> None:
    assert list(identity_of(CONFIG)) == [
        "data_fingerprint", "model", "decay_steps", "seq_len", "tokens_per_step", "learning_rate",
        "min_learning_rate", "warmup_steps", "weight_decay", "beta1", "beta2", "epsilon", "clip",
        "dropout", "loss_on", "precision", "seed", "packing",
    ]  # fmt: skip


def test_every_setting_says_whether_a_run_keeps_it() -> None:
    assert all("is_identity" in setting.metadata for setting in fields(Recipe))


def test_settings_come_back_from_json() -> None:
    assert from_json(to_json(CONFIG), "run.json") == CONFIG


def test_log_has_the_settings_that_are_not_the_defaults_on_one_line() -> None:
    config = replace(CONFIG, seq_len=8, clip=1.0, lora=2)

    assert describe(config) == (
        'run "r", shards "s", checkpoints "c", runs "t", init "random", model "tiny", '
        'data_fingerprint "f", seq_len 8, lora 2'
    )
