"""
Weights to start from: a Hugging Face folder, a step folder of ours, a `.safetensors` or `.pt` file.

    shape, weights = load_pretrained("checkpoints/best_model.pt")
    model.load_state_dict(weights)

Whatever form they come in, they leave in GPT-2's own: names below `transformer.`, matrices as
(inputs, outputs), a vocabulary of 50,257 rows and the head tied to the embedding. What does not
fit is an error that names the tensor. A model that was built without biases gets biases of zero,
which compute the same; nothing else is filled in.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import xxhash
from torch import Tensor

from instruct_core.config import PRESETS, ModelConfig
from instruct_core.data.gpt2_tokenizer import VOCAB_SIZE
from instruct_core.errors import ConfigError, InstructError
from instruct_core.model.foreign_settings import Said, heads_said, refuse_relatives
from instruct_core.model.gpt2 import GPT2
from instruct_core.model.weight_files import read_weight_files

# What DDP, torch.compile, FSDP and activation checkpointing put into names, wherever they wrap.
WRAPPERS = re.compile(r"(?:^module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
EMBEDDING = re.compile(r"(.*?)(?:transformer\.)?wte\.weight")  # what stands before is a prefix
BIASES = (re.compile(r"\.c_\w+\.bias$"), re.compile(r"\.ln_\w+\.bias$"))
BUFFERS = re.compile(r"\.attn\.(?:bias|masked_bias)$")  # the causal mask of older versions
MATRICES = re.compile(r"\.(?:c_attn|c_proj|c_fc)\.weight$")
MAX_NAMES = 5  # that a message shows


def load_pretrained(init: str) -> tuple[ModelConfig, dict[str, Tensor]]:
    """
    Return the shape and the weights of ``init``, a path or URL, as float32 in GPT-2's form.

    Raises:
        MissingError: It is not there, or a folder without weights.
        UnsafeFileError: A pickle that wants more than tensors and plain fields.
        CorruptFileError: A file that is cut off, or only points to the real one.
        ConfigError: Not a plain GPT-2, or weights that are incomplete or not finite.
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
    found = read_weight_files(init)
    refuse_relatives(found.said, init)
    weights = _in_own_orientation(_in_own_names(found.tensors, init), init)
    shape = _shape_of(weights, found.said, init)
    weights |= _missing_biases(shape, weights)
    _check_complete(shape, weights, init)
    _check_finite(weights, init)
    return shape, weights


def _in_own_names(raw: Mapping[str, Any], init: str) -> dict[str, Tensor]:
    tensors = {
        WRAPPERS.sub("", name): value for name, value in raw.items() if isinstance(value, Tensor)
    }
    found = [match[1] for name in tensors if (match := EMBEDDING.fullmatch(name))]
    if len(found) != 1:
        there = ", ".join(sorted(raw)[:MAX_NAMES]) or "none"
        what = "two of them" if found else "transformer.wte.weight is missing"
        raise ConfigError(f"Model {init} holds no GPT-2: {what}. Its first tensors: {there}.")
    weights = {}
    for name, value in tensors.items():
        own = name.removeprefix(found[0])
        if BUFFERS.search(own):
            continue
        if not value.is_floating_point():
            raise ConfigError(
                f"Model {init} must have weights of a floating type: {name} is {value.dtype}."
            )
        if not own.startswith(("transformer.", "lm_head.")):
            own = f"transformer.{own}"
        weights[own] = value.float()
    return weights


def _in_own_orientation(weights: dict[str, Tensor], init: str) -> dict[str, Tensor]:
    """Turn nn.Linear matrices, drop padded vocabulary rows, and check that the head is tied."""
    embedding = weights["transformer.wte.weight"][:VOCAB_SIZE]
    head = weights.pop("lm_head.weight", embedding)[:VOCAB_SIZE]
    if head.shape != embedding.shape or not _equal(head, embedding):
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


def _equal(one: Tensor, other: Tensor) -> bool:
    """Return True for equal numbers; a NaN in one place of both is left to be named later."""
    return bool(((one == other) | one.isnan() & other.isnan()).all())


def _shape_of(weights: Mapping[str, Tensor], said: Sequence[Said], init: str) -> ModelConfig:
    vocab_size, width = weights["transformer.wte.weight"].shape
    layers = {int(m[1]) for name in weights if (m := re.match(r"transformer\.h\.(\d+)\.", name))}
    if vocab_size != VOCAB_SIZE or not layers:
        raise ConfigError(
            f"Model {init} must be a GPT-2 of {VOCAB_SIZE} tokens and at least one layer, "
            f"got {vocab_size} tokens and {len(layers)} layers."
        )
    if "transformer.wpe.weight" not in weights:
        raise ConfigError(f"Model {init} holds no GPT-2: transformer.wpe.weight is missing.")
    num_positions = weights["transformer.wpe.weight"].shape[0]
    num_heads = heads_said(said, len(layers), width, num_positions, init)
    if width % num_heads:
        raise ConfigError(
            f"Model {init} has a width of {width}, which {num_heads} heads do not divide."
        )
    return ModelConfig(len(layers), num_heads, width, num_positions)


def _missing_biases(shape: ModelConfig, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return zeros for the biases of a model that was built without: it computes the same."""
    missing: dict[str, Tensor] = {}
    for kind in BIASES:
        names = {n: p for n, p in GPT2(shape).named_parameters() if kind.search(n)}
        if not names.keys() & weights.keys():
            missing |= {name: torch.zeros(p.shape) for name, p in names.items()}
    return missing


def _check_complete(shape: ModelConfig, weights: Mapping[str, Tensor], init: str) -> None:
    expected = {name: tuple(p.shape) for name, p in GPT2(shape).named_parameters()}
    found = {name: tuple(value.shape) for name, value in weights.items()}
    if expected != found:
        name = sorted({n for n, _ in expected.items() ^ found.items()})[0]
        raise ConfigError(
            f"Model {init} does not fit GPT-2: {name} has shape {found.get(name, 'none')}, "
            f"expected {expected.get(name, 'none')}."
        )


def _check_finite(weights: Mapping[str, Tensor], init: str) -> None:
    for name, value in sorted(weights.items()):
        if not all(math.isfinite(end) for end in value.aminmax()):
            raise ConfigError(
                f"Model {init} is broken: {name} has numbers that are not finite. Give weights of "
                "before its training failed."
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
