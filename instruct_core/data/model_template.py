"""
The template that a model was trained with, beside its weights.

    template = template_of_model("checkpoints_instruct/mine/step-00000100", tokenizer)

A run keeps it beside its steps, and an export in itself, where transformers looks for it. A base has its
own; a model that has none is asked with Alpaca's headings.
"""

from __future__ import annotations

from instruct_core.data.alpaca import ALPACA, ALPACA_2
from instruct_core.data.template import Template
from instruct_core.data.templates import (
    asking_template,
    base_template,
    decoded,
    jinja_of,
    template_of,
)
from instruct_core.data.tokenizer import Tokenizer
from instruct_core.storage.store import Store

TEMPLATE = "chat_template.jinja"
RUN = "run.json"


def template_of_model(place: str, tokenizer: Tokenizer) -> Template:
    """
    Return the template of a model.

    Args:
        place: Path or URL of a step folder, a Hugging Face folder or a file of weights.
        tokenizer: Of the model.

    Raises:
        ConfigError: It is no template that can be used.
    """
    by_headings = [template_of(name, "", tokenizer) for name in (ALPACA_2, ALPACA)]
    parent, _, name = place.rstrip("/").rpartition("/")
    run, folder = Store(parent or "."), Store(place)
    if name.startswith("step-") and run.exists(RUN):
        found = run.read(TEMPLATE) if run.exists(TEMPLATE) else None
        text = None if found is None else decoded(found, run.where(TEMPLATE))
    elif folder.exists(TEMPLATE):
        text = decoded(folder.read(TEMPLATE), folder.where(TEMPLATE))
    else:
        text = base_template(tokenizer)
    if text is None:
        return by_headings[0]
    for headings in by_headings:
        if text == jinja_of(headings, tokenizer):
            return headings
    return asking_template(f"of {place}", text, tokenizer)
