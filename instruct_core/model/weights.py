"""
Weights to start from: a Hugging Face folder, a step folder of ours, a `.safetensors` or `.pt` file.

    shape, weights = load_pretrained("checkpoints/best_model.pt")
    model.load_state_dict(weights)

Whatever form they come in, they leave in their family's own (see families.py). Every tensor's name and
shape is compared with what the family has; what does not fit is an error that names the tensor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import xxhash
from torch import Tensor

from instruct_core.config import PRESETS
from instruct_core.data.gpt2_tokenizer import VOCAB_SIZE
from instruct_core.errors import ConfigError, InstructError, MissingError, RunConflictError
from instruct_core.lora_settings import Base
from instruct_core.model.adapters import Adapter, find_adapter
from instruct_core.model.families import build, read
from instruct_core.model.family import Model, misfit
from instruct_core.model.lora import merge
from instruct_core.model.packed import can_halve, can_pack, halve, narrow, pack
from instruct_core.model.products import is_plain_best_for_a_row
from instruct_core.model.step import record_on_gpu, try_recorder
from instruct_core.model.weight_files import read_weight_files
from instruct_core.recipe import Kept, refuse_kept
from instruct_core.shape import Shape, with_trained, with_vocabulary


def load_pretrained(init: str) -> tuple[Shape, dict[str, Tensor]]:
    """
    Return the shape and the weights of ``init``, a path or URL, as float32 in our own form.

    Raises:
        MissingError: It is not there, or a folder without weights.
        UnsafeFileError: A pickle that wants more than tensors and plain fields.
        CorruptFileError: A file that is cut off, or only points to the real one.
        ConfigError: No model that is computed here, or weights that are incomplete or not finite.
    """
    try:
        adapter = find_adapter(init)
        return _load(init) if adapter is None else _merged(adapter)
    except InstructError:
        raise
    except (LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ConfigError(f"Model {init} holds no model that can be read: {reason}.") from error


def _merged(adapter: Adapter) -> tuple[Shape, dict[str, Tensor]]:
    shape, weights = load_base(adapter.base, adapter.place)
    with torch.device("meta"):
        outline = build(shape)
    merge(outline, weights, adapter.tensors, adapter.lora, adapter.place)
    _check_finite(weights, adapter.place)
    if adapter.trained_positions is not None:
        shape = with_trained(shape, adapter.trained_positions)
    return shape, weights


def load_base(base: Base, whose: str) -> tuple[Shape, dict[str, Tensor]]:
    """
    Return the shape and the weights that adapters stand on, in float32.

    Args:
        base: By place and hash.
        whose: Where the adapters are, for messages.

    Raises:
        MissingError: They are not there.
        RunConflictError: They are others now.
    """
    if base.place == "random":
        drawn = first_model(
            base.place, base.model, base.seed, vocab_size=base.vocab_size or VOCAB_SIZE
        )
        shape, weights = drawn.config, dict(drawn.state_dict())
    else:
        try:
            shape, weights = load_pretrained(base.place)
        except MissingError as error:
            raise MissingError(
                f"Base {base.place}, on which the adapters in {whose} stand, is not there. Put it back, "
                f"or link it there: ln -s WHERE_IT_IS {base.place}"
            ) from error
    if base.xxh3 and (found := hash_weights(weights)) != base.xxh3:
        raise RunConflictError(
            f"Base {base.place}, on which the adapters in {whose} stand, has other weights now (xxh3 "
            f"{found[:12]}, not {base.xxh3[:12]}), and adapters fit no others. Put the old ones back."
        )
    return shape, weights


def load_fitting(init: str, model: str, seq_len: int) -> tuple[Shape, dict[str, Tensor]]:
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


def _load(init: str) -> tuple[Shape, dict[str, Tensor]]:
    shape, weights = read(read_weight_files(init), init)
    _check_complete(shape, weights, init)
    _check_finite(weights, init)
    return shape, weights


def _check_complete(shape: Shape, weights: Mapping[str, Tensor], init: str) -> None:
    with torch.device("meta"):
        expected = {name: tuple(p.shape) for name, p in build(shape).named_parameters()}
    found = {name: tuple(value.shape) for name, value in weights.items()}
    if told := misfit(expected, found):
        raise ConfigError(f"Model {init} does not fit {shape.model_type}: {told}.")


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


def first_model(
    init: str,
    model: str,
    seed: int,
    seq_len: int = 0,
    dropout: float = 0.0,
    vocab_size: int = VOCAB_SIZE,
) -> Model:
    """
    Return the model that a run begins with, on the host.

    Args:
        init: Where its weights are, or "random".
        model: Preset that they must be, or "" for any.
        seed: Of random weights.
        seq_len: Positions that they must have at least.
        dropout: See Model.
        vocab_size: Of random weights: their tokenizer's.
    """
    if init == "random":
        fresh = build(with_vocabulary(PRESETS[model], vocab_size), dropout)
        fresh.initialize(seed)
        return fresh
    shape, weights = load_fitting(init, model, seq_len)
    loaded = build(shape, dropout)
    loaded.load_state_dict(weights)
    return loaded


def load_model(init: str, texts: int = 1, kept: Kept = "fp32") -> Model:
    """Return the model of ``init``, ready to answer on this machine; see `ready`."""
    check_kept(kept)
    return answering_model(*load_pretrained(init), texts, kept)


def answering_model(
    shape: Shape, weights: dict[str, Tensor], texts: int, kept: Kept = "fp32"
) -> Model:
    """Return the model of what `load_pretrained` returned, ready to answer; it takes the tensors away."""
    model = build(shape)
    model.load_state_dict(weights, assign=True)
    weights.clear()  # so that wide ones go as narrow ones come
    return ready(model, texts, kept)


def check_kept(kept: Kept) -> None:
    """Raise ConfigError where a model that answers here cannot keep its weights in such numbers."""
    on_gpu = torch.cuda.is_available()
    refuse_kept(kept, on_gpu, on_gpu and _has_bf16(), "this machine")
    if kept == "fp16" and not on_gpu and not can_halve():
        raise ConfigError(
            f"--weights {kept} needs FBGEMM and a processor with AVX2, and torch {torch.__version__} "
            "does not find them here. Leave it out."
        )


def _has_bf16() -> bool:
    """Return True for a GPU that computes in bf16 and does not only emulate it."""
    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def ready(model: Model, texts: int = 1, kept: Kept = "fp32") -> Model:
    """
    Return a model that answers and does nothing else: on the GPU, or as the CPU is quickest with it.

    Args:
        model: With its weights, on the host.
        texts: How many it mostly answers side by side.
        kept: In which numbers its matrices are kept; a GPU computes in them too.

    Raises:
        ConfigError: They cannot be kept so here.
    """
    check_kept(kept)
    model.eval()
    if torch.cuda.is_available():
        if kept != "fp32":
            narrow(model, kept)
        # For 16 bits torch takes it first on new GPUs. It plans anew for each length, and answers wrongly
        # where few heads have keys: https://github.com/pytorch/pytorch/issues/193893
        torch.backends.cuda.enable_cudnn_sdp(False)
        try_recorder(model.to("cuda"), record_on_gpu)
        return model
    if kept == "fp16":
        halve(model)
    elif can_pack() and not (texts == 1 and is_plain_best_for_a_row()):
        pack(model, texts)
    return model
