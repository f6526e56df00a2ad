"""
What a template leaves out of a chat, or writes in another way: a system prompt, what a tool says.

    unwritten(chat.turns, template.segments(chat.turns))        # {"system"}

Templates of bases do so without a word. Blanks do not count, as most trim what they are given.
"""

from __future__ import annotations

from collections.abc import Sequence

from instruct_core.data.template import Segment, text_of
from instruct_core.data.turns import Turn
from instruct_core.data.values import without_blanks


def unwritten(turns: Sequence[Turn], segments: Sequence[Segment]) -> set[str]:
    """
    Return whose words are not in a row as they stand: roles, and tools and calls where one has no name.

    Args:
        turns: Of the chat.
        segments: What a template made of them.
    """
    written, missing, place = without_blanks(text_of(segments)), set[str](), 0
    for turn in turns:
        for text in (turn.text, turn.input):
            said = without_blanks(text)
            # A template may put the system prompt anywhere; all others speak one after another.
            found = written.find(said, 0 if turn.role == "system" else place)
            if found < 0:
                missing.add(turn.role)
            elif turn.role != "system":
                place = found + len(said)
        if any(without_blanks(call["name"]) not in written for call in turn.calls):
            missing.add("calls")
        if any(without_blanks(tool["function"]["name"]) not in written for tool in turn.tools):
            missing.add("tools")
    return missing
