"""A small model with adapters, and the folder that an export makes of it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from instruct_core.checkpoints.staging import direct_image
from instruct_core.config import ModelConfig
from instruct_core.lora_settings import CONFIG_FILE, WEIGHTS_FILE, Base, Lora
from instruct_core.model.adapters import BASE_FILE, base_file
from instruct_core.model.gpt2 import GPT2
from instruct_core.model.lora import adapt, adapter_file, draw, saved_tensors
from instruct_core.storage.documents import dump_document
from instruct_core.storage.store import Store

SHAPE = ModelConfig(num_layers=2, num_heads=2, width=32, max_seq_len=64)


def base_model() -> GPT2:
    model = GPT2(SHAPE)
    model.initialize(seed=3)
    with torch.no_grad():  # so that logits differ enough to compare
        for parameter in model.parameters():
            parameter.mul_(3.0)
    return model.eval()


def adapted(targets: str, alpha: float = 6.0) -> tuple[GPT2, Lora]:
    """Return a model whose adapters add something."""
    model, lora = base_model(), Lora(4, alpha, targets)
    adapt(model, lora, dropout=0.0)
    draw(model, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if "lora_B" in name:
                parameter.normal_(0, 0.3, generator=generator)
    return model.eval(), lora


def put(folder: Path, name: str, tensors: dict[str, Tensor]) -> None:
    image = direct_image(name, tensors, {"format": "pt"})
    Store(folder).put(image.name, image.views)


def save(folder: Path, model: GPT2, lora: Lora, base: Base) -> Path:
    """Write a folder as an export does."""
    put(folder, WEIGHTS_FILE, saved_tensors(model))
    (folder / CONFIG_FILE).write_bytes(dump_document(adapter_file(model, lora, base, 0.1)))
    (folder / BASE_FILE).write_bytes(base_file(base, SHAPE))
    return folder
