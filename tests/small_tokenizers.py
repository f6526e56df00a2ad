"""
Tokenizers of other bases, made here: trained on a few sentences, written as a base's folder has them.

    folder = write_byte_level(tmp_path / "base")       # as Llama 3, Qwen and SmolLM have
    folder = write_metaspace(tmp_path / "base")        # as Llama 2 and Mistral have
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

SENTENCES = [
    "What is the capital of France? The capital of France is Paris.",
    "### Instruction: Name a colour.\n\n### Response:\nBlue is a colour of the sky.",
    "Grüße aus Köln, 你好, and a rocket 🚀 too.",
]
END, START = "<|im_end|>", "<|im_start|>"


def write_byte_level(
    folder: Path,
    end: str | None = END,
    vocab_size: int = 400,
    texts: Iterable[str] = SENTENCES,
    **settings: Any,
) -> Path:
    """Write a tokenizer whose pieces have a character for each byte; settings go into its config."""
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>", START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer)
    return _write(made, folder, end, settings)


def enlarge(folder: Path, vocab_size: int) -> Path:
    """Give a tokenizer pieces that no text has, up to a vocabulary of that size."""
    document = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = document["model"]["vocab"]
    vocabulary |= {f"unused {n}": n for n in range(len(vocabulary), vocab_size)}
    (folder / "tokenizer.json").write_text(json.dumps(document))
    return folder


def write_metaspace(
    folder: Path, end: str | None = "</s>", scheme: str = "first", **settings: Any
) -> Path:
    """Write a tokenizer with `▁` for a blank, a piece for each byte, and a token before every text."""
    made = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    made.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )  # fmt: skip
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<unk>", "<s>", "</s>", *bytes_],
        limit_alphabet=40,
        show_progress=False,
    )
    made.train_from_iterator(SENTENCES[:2], trainer)
    made.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    return _write(made, folder, end, settings)


def _write(
    made: tokenizers.Tokenizer, folder: Path, end: str | None, settings: dict[str, Any]
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    config = settings if end is None else {"eos_token": end, **settings}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder
