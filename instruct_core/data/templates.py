"""
Templates by their names.

    template_of("alpaca-headings-2").segments(turns)
"""

from __future__ import annotations

from instruct_core.data.gpt2_tokenizer import END_OF_TEXT
from instruct_core.data.template import ALPACA, ALPACA_1, Alpaca, Template
from instruct_core.errors import ConfigError

BY_HEADINGS = Alpaca(END_OF_TEXT)  # what is taken where nothing is asked for


def template_of(name: str, end: str = END_OF_TEXT) -> Template:
    """
    Return the template of a plan or a run.

    Args:
        name: As the plan has it.
        end: How the control token is spelled that ends an answer.

    Raises:
        ConfigError: No version of the code that is here knows it.
    """
    if name in (ALPACA_1, ALPACA):
        return BY_HEADINGS if end == END_OF_TEXT else Alpaca(end)
    raise ConfigError(f"Template {name} is not known here: it is of a newer version.")


def exchanges_name(template: Template) -> str:
    """Return the name under which a template writes rows of one exchange alone."""
    return ALPACA_1 if template.name == ALPACA else template.name
