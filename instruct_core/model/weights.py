"""
Weights to start from: a Hugging Face folder, a step folder of ours, or a `.pt` file.

    shape, weights = load_pretrained("checkpoints/best_model.pt")
    model.load_state_dict(weights)

Whatever form they come in, they leave in GPT-2's own: names below `transformer.`, matrices as
(inputs, outputs), a vocabulary of 50,257 rows and the head tied to the embedding. What does not
fit is an error that names the tensor; nothing is filled in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
import xxhash
from torch import Tensor

from instruct_core.checkpoints.manifest import FileEntry, manifest_in
from instruct_core.checkpoints.steps import read_verified
from instruct_core.config import PRESETS, ModelConfig
from instruct_core.data.tokenizer import VOCAB_SIZE
from instruct_core.errors import ConfigError, InstructError, MissingError
from instruct_core.model.foreign import load_foreign
from instruct_core.model.gpt2 import GPT2
from instruct_core.storage.documents import load_document
from instruct_core.storage.store import Store
from instruct_core.storage.tensor_file import aligned_buffer
from instruct_core.storage.torch_tensors import tensors_of

PREFIXES = re.compile(r"^(?:(?:module|_orig_mod|model)\.)+")
BUFFERS = re.compile(r"\.attn\.(?:bias|masked_bias)$")  # the causal mask of older versions
MATRICES = re.compile(r"\.(?:c_attn|c_proj|c_fc)\.weight$")


def load_pretrained(init: str) -> tuple[ModelConfig, dict[str, Tensor]]:
    """
    Return the shape and the weights of ``init``, a path or URL, as float32 in GPT-2's form.

    Raises:
        MissingError: It is not there, or a folder without weights.
        UnsafeFileError: A pickle that wants more than tensors and plain fields.
        ConfigError: Not a GPT-2, or weights that are incomplete.
    """
    try:
        return _load(init)
    except InstructError:
        raise
    except (LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ConfigError(f"Model {init} holds no GPT-2 that can be read: {reason}.") from error


def load_fitting(init: str, model: str, seq_len: int) -> tuple[ModelConfig, dict[str, Tensor]]:
    """
    Return `load_pretrained` of weights that a run of these settings can start from.

    Args:
        init: Where they are.
        model: Preset that they must be, or "" for any.
        seq_len: Positions that they must have at least.

    Raises:
        ConfigError: They are of another shape.
    """
    shape, weights = load_pretrained(init)
    if model and shape != PRESETS[model]:
        raise ConfigError(
            f"Model {init} is no {model}: it has {shape.num_layers} layers of width {shape.width}. "
            "Leave --model away to take it as it is."
        )
    if seq_len > shape.max_seq_len:
        raise ConfigError(
            f"--seq-len must be at most {shape.max_seq_len}, which is what {init} has positions "
            f"for, got {seq_len}."
        )
    return shape, weights


def _load(init: str) -> tuple[ModelConfig, dict[str, Tensor]]:
    if init.endswith((".pt", ".pth", ".ckpt")):
        raw, num_heads = _read_foreign(init)
    else:
        raw, num_heads = _read_folder(init)
    weights = _in_own_names(raw)
    if "transformer.wte.weight" not in weights or "transformer.wpe.weight" not in weights:
        raise ConfigError(f"Model {init} holds no GPT-2: transformer.wte.weight is missing.")
    weights = _in_own_orientation(weights, init)
    shape = _shape_of(weights, num_heads, init)
    _check_complete(shape, weights, init)
    return shape, weights


def _read_folder(init: str) -> tuple[Mapping[str, Any], int | None]:
    store = Store(init)
    names = store.names()
    if "config.json" not in names:
        raise MissingError(
            f"Model {init} is not there, or no model: no config.json in it. Give random, a Hugging "
            "Face folder, a step folder of a run, or a .pt file."
        )
    entries: dict[str, FileEntry] = {}
    if "manifest.json" in names:  # a step folder of ours: its bytes are checked
        entries = {entry.file: entry for entry in manifest_in(store).files}
        read_verified(store, entries["config.json"])
    config = load_document(store, "config.json")
    activation = config.get("activation_function", "gelu_new")
    if config.get("model_type", "gpt2") != "gpt2" or activation not in (
        "gelu_new",
        "gelu_pytorch_tanh",
    ):
        kind = f"{config.get('model_type')} with {activation}"
        raise ConfigError(f"Model {init} must be a GPT-2 with gelu_new, got a {kind}.")
    if "model.safetensors" in names:
        if entries:
            buffer = read_verified(store, entries["model.safetensors"])
        else:
            buffer = aligned_buffer(store.size_bytes("model.safetensors"))
            store.read_hashed("model.safetensors", buffer)
        return tensors_of(torch.from_numpy(buffer), store.where("model.safetensors")), config.get(
            "n_head"
        )
    if "pytorch_model.bin" in names:
        where = store.where("pytorch_model.bin")
        return load_foreign(store.read("pytorch_model.bin"), where), config.get("n_head")
    raise MissingError(
        f"Model {init} has no weights: neither model.safetensors nor pytorch_model.bin in it."
    )


def _read_foreign(init: str) -> tuple[Mapping[str, Any], int | None]:
    folder, _, name = init.rpartition("/")
    store = Store(folder or ".")
    if not store.exists(name):
        raise MissingError(f"Model {init} is not there. Give another path, or random.")
    content = load_foreign(store.read(name), init)
    settings = content.get("config") or content.get("model_args") or content.get("args")
    settings = settings if isinstance(settings, dict) else {}
    num_heads = settings.get("n_head") or settings.get("num_heads")
    weights = content.get("model", content)
    if not isinstance(weights, dict):
        raise ConfigError(f"Model {init} must hold a state dict under 'model'.")
    return weights, num_heads


def _in_own_names(raw: Mapping[str, Any]) -> dict[str, Tensor]:
    weights = {}
    for name, value in raw.items():
        own = PREFIXES.sub("", name)
        if not isinstance(value, Tensor) or BUFFERS.search(own):
            continue
        if not own.startswith(("transformer.", "lm_head.")):
            own = f"transformer.{own}"
        weights[own] = value.float()
    return weights


def _in_own_orientation(weights: dict[str, Tensor], init: str) -> dict[str, Tensor]:
    """Turn nn.Linear matrices, drop padded vocabulary rows, and check that the head is tied."""
    embedding = weights["transformer.wte.weight"][:VOCAB_SIZE]
    head = weights.pop("lm_head.weight", embedding)[:VOCAB_SIZE]
    if head.shape != embedding.shape or not torch.equal(head, embedding):
        raise ConfigError(f"Model {init} has a head of its own; GPT-2's is its token embedding.")
    width = embedding.shape[1]
    # c_attn tells: attention's c_proj is square and looks the same either way.
    first = weights.get("transformer.h.0.attn.c_attn.weight", torch.empty(0, 0))
    turned = tuple(first.shape) == (3 * width, width)
    result = {
        name: value.t().contiguous() if turned and MATRICES.search(name) else value.contiguous()
        for name, value in weights.items()
    }
    return result | {"transformer.wte.weight": embedding.contiguous()}


def _shape_of(weights: Mapping[str, Tensor], num_heads: int | None, init: str) -> ModelConfig:
    vocab_size, width = weights["transformer.wte.weight"].shape
    layers = {int(m[1]) for name in weights if (m := re.match(r"transformer\.h\.(\d+)\.", name))}
    if vocab_size != VOCAB_SIZE or not layers:
        raise ConfigError(
            f"Model {init} must be a GPT-2 of {VOCAB_SIZE} tokens and at least one layer, "
            f"got {vocab_size} tokens and {len(layers)} layers."
        )
    num_heads = num_heads or max(1, width // 64)  # every published GPT-2 has heads of 64
    if width % num_heads:
        raise ConfigError(
            f"Model {init} has a width of {width}, which {num_heads} heads do not divide."
        )
    return ModelConfig(
        num_layers=len(layers),
        num_heads=num_heads,
        width=width,
        max_seq_len=weights["transformer.wpe.weight"].shape[0],
    )


def _check_complete(shape: ModelConfig, weights: Mapping[str, Tensor], init: str) -> None:
    expected = {name: tuple(p.shape) for name, p in GPT2(shape).named_parameters()}
    found = {name: tuple(value.shape) for name, value in weights.items()}
    if expected != found:
        name = sorted({n for n, _ in expected.items() ^ found.items()})[0]
        raise ConfigError(
            f"Model {init} does not fit GPT-2: {name} has shape {found.get(name, 'none')}, "
            f"expected {expected.get(name, 'none')}."
        )


def hash_weights(weights: Mapping[str, Tensor]) -> str:
    """Return xxh3-128 of weights as `load_pretrained` returns them, however they were stored."""
    hasher = xxhash.xxh3_128()
    for name in sorted(weights):
        hasher.update(name.encode())
        hasher.update(weights[name].detach().cpu().numpy().data)
    return hasher.hexdigest()


def first_model(init: str, model: str, seed: int, seq_len: int = 0, dropout: float = 0.0) -> GPT2:
    """
    Return the model that a run begins with, on the host.

    Args:
        init: Where its weights are, or "random".
        model: Preset that they must be, or "" for any.
        seed: Of random weights.
        seq_len: Positions that they must have at least.
        dropout: See GPT2.
    """
    if init == "random":
        fresh = GPT2(PRESETS[model], dropout)
        fresh.initialize(seed)
        return fresh
    shape, weights = load_fitting(init, model, seq_len)
    loaded = GPT2(shape, dropout)
    loaded.load_state_dict(weights)
    return loaded


def load_model(init: str) -> GPT2:
    """Return the model of ``init``, ready to answer on this machine; see above."""
    shape, weights = load_pretrained(init)
    model = GPT2(shape)
    model.load_state_dict(weights)
    return ready(model)


def ready(model: GPT2) -> GPT2:
    """Return a model in eval mode, on the GPU where there is one."""
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
