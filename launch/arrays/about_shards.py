"""
What is said of a shard set before it is made: from what, in which words, and what has changed.

    for line in about_plan(plan, old): say(line)
"""

from __future__ import annotations

from instruct_core.data.shard_plan import BY_PLACE, ShardPlan
from instruct_core.data.tokenizer_files import TOKENIZER_FOLDER
from launch.console.lines import counted


def about_plan(plan: ShardPlan, old: ShardPlan | None) -> list[str]:
    """Return lines on what the shards are made from, and what of it has changed."""
    lines = [f"Source: {plan.identity}, {counted(plan.num_rows, 'row')}; columns {plan.reading}"]
    if own := plan.own_tokenizer:
        lines.append(
            f"Tokenizer: {own.name} ({plan.tokenizer}), {own.vocab_size:,} tokens; its files go along "
            f"in {TOKENIZER_FOLDER}/"
        )
    lines += [f"  skipped {bad['where']}: {bad['problem']}" for bad in plan.bad_rows[:5]]
    if (more := plan.num_bad_rows - 5) > 0:
        listed = "the first thousand" if plan.more_bad_rows else "all"
        lines.append(f"  and {more:,} more; {listed} are in the manifest")
    if plan.num_duplicates:
        lines.append(
            f"Duplicates: {counted(plan.num_duplicates, 'row')}, word for word as one before; "
            "copies of a row are in one split"
        )
    lines += [*_how_written(plan), *_of_earlier_versions(plan)]
    if old is None or plan.makes_same_parts(old):
        return lines
    changes = plan.changes_since(old)
    lines += [f"Changed since these shards were made: {change}" for change in changes]
    return [*lines, "All shards are made anew."]


def _how_written(plan: ShardPlan) -> list[str]:
    lines = []
    if plan.template_text:
        lines.append(
            f"Template: {plan.template_typed} ({plan.template}); its text is in the manifest"
        )
    if plan.num_lossy:
        lines.append(
            f"Tokenizer: {counted(plan.num_lossy, 'row')} with characters that it has no token for: they "
            "are left out, or learnt as the one for all such"
        )
    if plan.unwritten:
        said = ", ".join(f"{who} (in {number:,})" for who, number in plan.unwritten.items())
        lines.append(
            f"Template: it leaves out, or writes in another way, what some rows say: {said}. See what "
            "is learnt with --inspect"
        )
    if plan.long_rows != "cut":
        what = "truncated" if plan.long_rows == "truncate" else "dropped"
        lines.append(f"Long rows: those that are longer than a run's --seq-len are {what} by it")
    if plan.num_open_ends:
        lines.append(
            f"Chats: {counted(plan.num_open_ends, 'row')} without what follows the last answer: nobody "
            "answers it"
        )
    if plan.num_open_starts:
        lines.append(
            f"Chats: {counted(plan.num_open_starts, 'row')} without what stands before the first "
            "question: nobody asked for it"
        )
    if plan.num_markers:
        lines.append(
            f"Markers: {counted(plan.num_markers, 'row')} with <image>, <video>, <audio> or the like in "
            "the text, learnt as text: pictures and sounds are not read"
        )
    if plan.num_text_calls:
        lines.append(
            f"Calls: {counted(plan.num_text_calls, 'row')} with calls of tools in a role of their own, "
            "written as the template writes calls"
        )
    if plan.num_filled:
        lines.append(
            f"Tables: {counted(plan.num_filled, 'row')} without keys of tools or calls that only other "
            "rows have, and that are null in it"
        )
    return lines


def _of_earlier_versions(plan: ShardPlan) -> list[str]:
    lines = []
    if plan.may_end_once:
        lines.append(
            "Made by an earlier version, which learnt the last answer of a chat alone, and kept so. "
            "Another --out learns and ends every answer."
        )
    if plan.split == BY_PLACE:
        lines.append(
            "Begun by an earlier version, and kept to it: copies of a row may be in both splits, and "
            "fields that are not read stop no row. Another --out does better."
        )
    return lines
