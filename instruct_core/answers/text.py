"""
The text of an answer while its tokens still come.

    text = AnswerText(tokenizer, heading="### Instruction:")
    for token in tokens:
        print(text.take(token), end="")      # never half a character
        if text.is_over: break               # the model began an instruction of its own
    print(text.rest())

A token may end in the middle of a character, and the heading of a next instruction takes several
tokens. So what may still become either is held back until it is clear. Blanks around the answer
are no part of it.
"""

from __future__ import annotations

import codecs

from instruct_core.data.tokenizer import Tokenizer


class AnswerText:
    """
    One answer; bytes that are not UTF-8 become U+FFFD.

    Args:
        tokenizer: Of the model.
        heading: Of its template; "" for one that has none.
    """

    def __init__(self, tokenizer: Tokenizer, heading: str) -> None:
        self._tokenizer, self._heading = tokenizer, heading
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""
        self.shown = ""  # all that was returned so far
        self.is_over = False  # the heading of another instruction has come

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
        before, heading, _ = held.partition(self._heading) if self._heading else (held, "", "")
        self.is_over = bool(heading)
        certain = before.rstrip() if heading or is_last else before[: self._certain(before)]
        self._held = before[len(certain) :]
        self.shown += certain
        return certain

    def _certain(self, text: str) -> int:
        """Return how much of a text is neither blanks at its end nor the beginning of a heading."""
        longest = min(len(text), len(self._heading) - 1)
        begun = next((n for n in range(longest, 0, -1) if text.endswith(self._heading[:n])), 0)
        return len(text[: len(text) - begun].rstrip())
