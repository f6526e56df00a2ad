"""A GGUF file as a Hugging Face folder: the same scores, the same tokens, and its chat template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import tokenizers
import torch
import transformers
from tokenizers import decoders, models, pre_tokenizers, trainers

from bench.smollm2_folder import OF_LAYER, write_folder
from instruct_core.data.templates import choose_template
from instruct_core.data.tokenizer import load_tokenizer
from instruct_core.model.weights import load_model
from tests.small_tokenizers import END, SENTENCES, START

TEXT = "In 2026 the sky is blue, 12 times.\n"
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def trained_tokenizer() -> tokenizers.Tokenizer:
    """Return a tokenizer of SmolLM2's kind: digits one by one, then bytes."""
    made = tokenizers.Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), byte_level])
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=384, special_tokens=["<|endoftext|>", START, END], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    made.train_from_iterator([*SENTENCES, "12 and 2026"], trainer)
    return made


def model_of(vocab_size: int) -> transformers.LlamaForCausalLM:
    """Return a small Llama whose heads share keys, with weights that bfloat16 has."""
    torch.manual_seed(1)
    config = transformers.LlamaConfig(
        vocab_size=vocab_size, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
        tie_word_embeddings=True, rms_norm_eps=1e-5, rope_parameters={"rope_type": "default",
        "rope_theta": 5000.0}, initializer_range=0.2,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16().float()
    return model


def write_gguf(path: Path, model: Any, tokenizer: tokenizers.Tokenizer, pre: str) -> None:
    """Write a model as llama.cpp's converter does; the embedding in eight bits."""
    writer, config = gguf.GGUFWriter(path, "llama"), model.config
    writer.add_context_length(config.max_position_embeddings)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(5000.0)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    words = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([word for word, _ in words])
    writer.add_token_types([3 if id_ < 3 else 1 for _, id_ in words])
    merges = tokenizer.to_str()
    writer.add_token_merges([" ".join(m) for m in json_merges(merges)])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_chat_template(CHATML)
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    state = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}
    embedding = gguf.quants.quantize(
        state["model.embed_tokens.weight"], gguf.GGMLQuantizationType.Q8_0
    )
    writer.add_tensor("token_embd.weight", embedding, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("output_norm.weight", state["model.norm.weight"])
    for layer in range(config.num_hidden_layers):
        for short, name in OF_LAYER.items():
            weight = state[f"model.layers.{layer}.{name}.weight"]
            if short in heads:  # numbers that turn together come to lie side by side
                halves = weight.reshape(heads[short], 2, -1, weight.shape[1])
                weight = np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(weight.shape)
            writer.add_tensor(f"blk.{layer}.{short}.weight", weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def json_merges(document: str) -> list[list[str]]:
    merges = json.loads(document)["model"]["merges"]
    return [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]


@torch.no_grad()
def test_folder_has_the_scores_the_tokens_and_the_template_of_the_file(tmp_path: Path) -> None:
    tokenizer = trained_tokenizer()
    model = model_of(tokenizer.get_vocab_size())
    write_gguf(tmp_path / "small.gguf", model, tokenizer, "smollm")
    embedding = model.model.embed_tokens.weight
    eight_bits = gguf.GGMLQuantizationType.Q8_0
    rounded = gguf.quants.dequantize(
        gguf.quants.quantize(embedding.numpy(), eight_bits), eight_bits
    )
    embedding.copy_(torch.tensor(rounded).to(torch.bfloat16))
    folder = tmp_path / "small"

    write_folder(tmp_path / "small.gguf", folder)

    tokens = torch.tensor([tokenizer.encode(TEXT).ids])
    expected = model(tokens).logits
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert torch.equal(theirs(tokens).logits, expected)
    ours = load_model(str(folder))
    scores = ours.logits(ours(tokens, torch.arange(tokens.shape[1])[None], None))
    assert (scores - expected).abs().max() < 1e-4
    own = load_tokenizer(str(folder))
    assert own.encode(TEXT) == tokens[0].tolist()
    assert (own.end, sorted(own.specials)) == (END, sorted(["<|endoftext|>", START, END]))
    assert choose_template("base", own).text == CHATML
    assert transformers.AutoTokenizer.from_pretrained(folder)(TEXT).input_ids == tokens[0].tolist()


def test_file_of_another_kind_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    tokenizer = trained_tokenizer()
    write_gguf(
        tmp_path / "small.gguf", model_of(tokenizer.get_vocab_size()), tokenizer, "llama-bpe"
    )

    with pytest.raises(
        SystemExit, match=r"must be a llama with the tokenizer smollm, it is .*llama-bpe"
    ):
        write_folder(tmp_path / "small.gguf", tmp_path / "small")

    assert not (tmp_path / "small").exists()
