"""
Alpaca's headings: the template that needs no file, in every version that rows were written with.

    template = Alpaca(end="<|endoftext|>")
    text_of(template.segments(Exchange("Add.", "1, 2", "3").turns))
    # ### Instruction:\\nAdd.\\n\\n### Input:\\n1, 2\\n\\n### Response:\\n3

What a field says is trimmed as `trimmed` does it; up to version 2 it was stripped, which took the indent
of code from its first line, and line breaks of Windows stayed.

Source: Taori et al. 2023, Stanford Alpaca (the headings).
"""

from __future__ import annotations

from collections.abc import Sequence

from instruct_core.data.template import NO_TOOLS, Segment
from instruct_core.data.turns import Turn

HEADING, RESPONSE = "### Instruction:", "### Response:\n"
# Part of the fingerprint: changed with what is written. Rows of one exchange read alike in 1 and 2; chats
# of version 1 had one end, behind the last answer, and no other answer was learnt. Rows that `trimmed`
# and strip() leave alike read alike in 2 and 3.
ALPACA_1, ALPACA_2, ALPACA = "alpaca-headings-1", "alpaca-headings-2", "alpaca-headings-3"
# The same for transformers, which an export carries; BEGIN and END stand for control tokens.
ALPACA_2_JINJA = """\
{%- set ns = namespace(system='', blank='') %}
BEGIN
{%- for message in messages %}
{%- if message['role'] == 'system' %}
{%- set ns.system = message['content'] + '\\n\\n' %}
{%- elif message['role'] == 'assistant' %}
{{- ns.blank + '### Response:\\n' + message['content'] | trim + END }}
{%- set ns.blank = '\\n\\n' %}
{%- elif message['role'] == 'tool' %}
{{- ns.blank + '### Tool:\\n' + message['content'] | trim + '\\n\\n' }}
{%- set ns.blank = '' %}
{%- else %}
{{- ns.blank + '### Instruction:\\n' + (ns.system + message['content'] | trim) | trim + '\\n\\n' }}
{%- set ns.blank = '' %}
{%- set ns.system = '' %}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- ns.blank + '### Response:\\n' }}
{%- endif %}
"""
TRIMMED_JINJA = """\
{%- macro trimmed(said) %}
{%- set text = said | replace('\\r\\n', '\\n') %}
{%- set text = text.rstrip() %}
{%- set text = text[text[:text | length - text.lstrip() | length].rfind('\\n') + 1:] %}
{{- text[1:] if text[:1] == ' ' and text[1:2] not in (' ', '\\t') else text }}
{%- endmacro %}
"""
ALPACA_JINJA = TRIMMED_JINJA + (
    ALPACA_2_JINJA.replace("message['content'] | trim", "trimmed(message['content'])").replace(
        "(ns.system + trimmed(message['content'])) | trim",
        "trimmed(ns.system + trimmed(message['content']))",
    )
)


def trimmed(text: str) -> str:
    """
    Return a text without blanks behind it, blank lines before it and a single blank in front.

    The indent of its first line stays, and line breaks become \\n.
    """
    if "\r" in text:
        text = text.replace("\r\n", "\n")
    text = text.rstrip()
    if not text[:1].isspace():  # as most: no more to look at
        return text
    text = text[text[: len(text) - len(text.lstrip())].rfind("\n") + 1 :]
    return text[1:] if text[:1] == " " and text[1:2] not in (" ", "\t") else text


class Alpaca:
    """
    Alpaca's headings.

    Args:
        end: The special token that ends an answer.
        begin: Those that begin a text.
        name: Of the version.
    """

    text, heading = "", HEADING

    def __init__(self, end: str, begin: Sequence[str] = (), name: str = ALPACA) -> None:
        self.name = name
        self._trimmed = trimmed if name == ALPACA else str.strip
        self._begin = [Segment(token, is_special=True) for token in begin]
        self._ends = [Segment(end, is_learnt, is_special=True) for is_learnt in (False, True)]

    def segments(self, turns: Sequence[Turn], asks: bool = False) -> list[Segment]:
        """Return the chat in pieces; see `Template`."""
        segments = [*self._begin]
        blocks = system = ""  # not written yet
        for turn in turns:
            if turn.tools:
                raise ValueError(NO_TOOLS)
            if turn.role == "system":
                system = f"{turn.text}\n\n"
            elif turn.role == "assistant":
                segments += [
                    Segment(f"{blocks}{RESPONSE}"),
                    Segment(self._trimmed(turn.spoken), turn.learnt),
                    self._ends[turn.learnt],
                ]
                blocks = "\n\n"
            else:
                blocks += self._block(turn, system)
                system = ""
        return [*segments, Segment(f"{blocks}{RESPONSE}")] if asks else segments

    def exchange(self, question: str, context: str, answer: str) -> list[Segment] | None:
        """Return an exchange of fields with nothing to trim but blanks behind them; see `Template`."""
        asked, said, answered = question.rstrip(), context.rstrip(), answer.rstrip()
        if not asked or not answered or asked[0].isspace() or answered[0].isspace():
            return None
        prompt = f"{_question(asked, said)}{RESPONSE}"
        if said[:1].isspace() or "\r" in prompt or "\r" in answered:
            return None
        return [*self._begin, Segment(prompt), Segment(answered, True), self._ends[True]]

    def writes_anew(self, turns: Sequence[Turn]) -> bool:
        """Return True if the version before this one wrote these turns in another way."""
        if self.name != ALPACA:
            return False
        for turn in turns:
            for text in (turn.text, turn.input) if turn.input else (turn.text,):
                if ("\r" in text or text[:1].isspace()) and trimmed(text) != text.strip():
                    return True
        return False

    def _block(self, turn: Turn, system: str) -> str:
        """Return what stands before an answer: the text, blank line included."""
        said = self._trimmed(turn.text)
        if turn.role == "tool":
            return f"### Tool:\n{said}\n\n"
        if system or "\r" in said:
            said = self._trimmed(system + said)
        return _question(said, self._trimmed(turn.input) if turn.input else "")


def _question(said: str, context: str) -> str:
    """Return the block of a user's turn, blank line included."""
    context = f"### Input:\n{context}\n\n" if context else ""
    return f"{HEADING}\n{said}\n\n{context}"
