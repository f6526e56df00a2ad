"""
The text of an answer while its tokens still come.

    text = AnswerText(tokenizer, ends=["### Instruction:"])
    for token in tokens:
        print(text.take(token), end="")      # never half a character
        if text.is_over: break               # the model began an instruction of its own
    print(text.rest())

A token may end in the middle of a character, and what ends an answer, as the heading of a next
instruction, takes several tokens. So what may still become either is held back until it is clear.
Blanks around the answer are no part of it.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from instruct_core.data.tokenizer import Tokenizer


class AnswerText:
    """
    One answer; bytes that are not UTF-8 become U+FFFD.

    Args:
        tokenizer: Of the model.
        ends: Texts that are behind an answer, as the heading of the model's template; those that are ""
            are not looked for.
    """

    def __init__(self, tokenizer: Tokenizer, ends: Sequence[str]) -> None:
        self._tokenizer, self._ends = tokenizer, [end for end in ends if end]
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""
        self.shown = ""  # all that was returned so far
        self.is_over = False  # one of the ends has come

    def take(self, token: int) -> str:
        """Return the text that is certain now that this token is known; often none, or a word."""
        return self._show(self._decoder.decode(self._tokenizer.bytes_of(token)), is_last=False)

    def rest(self) -> str:
        """Return what was held back, now that no token follows."""
        return self._show(self._decoder.decode(b"", final=True), is_last=True)

    def _show(self, new: str, is_last: bool) -> str:
        if self.is_over:
            return ""
        held = self._held + new if self.shown else (self._held + new).lstrip()
        # The one that is complete first, however many tokens have come at once.
        found = [(place + len(end), place) for end in self._ends if (place := held.find(end)) >= 0]
        before, self.is_over = held[: min(found)[1]] if found else held, bool(found)
        certain = before.rstrip() if found or is_last else before[: self._certain(before)]
        self._held = before[len(certain) :]
        self.shown += certain
        return certain

    def _certain(self, text: str) -> int:
        """Return how much of a text is neither blanks at its end nor the beginning of an end."""
        begun = max((_begun(end, text) for end in self._ends), default=0)
        return len(text[: len(text) - begun].rstrip())


def _begun(end: str, text: str) -> int:
    """Return how many characters of an end a text stops with."""
    longest = min(len(text), len(end) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(end[:n])), 0)
