"""
Where a run tells how it goes, settled before it is queued.

    flags = replace(flags, notify=settled(flags.notify, known))
    hand_on(flags.notify, run)                  # to the job, through the environment alone
"""

from __future__ import annotations

import os

from instruct_core.errors import ConfigError
from jobs.environment import NOTIFY
from jobs.notify import address_of, is_url
from launch.console.lines import say
from launch.runs.places import absolute
from launch.runs.run import Run

HAD_URL = "notify_had_url"  # in run.json: that there was one


def settled(word: str | None, remembered: str | None) -> str | None:
    """
    Return where to, a file as an absolute path; None for what the environment says.

    Args:
        word: What was typed, or what the run had.
        remembered: What the run had; if that cannot be used any more, the run goes on without.

    Raises:
        ConfigError: What was typed, or stands in the environment, is no place to tell.
    """
    if word is None:
        if found := os.environ.get(NOTIFY):
            address_of(found)
            os.environ[NOTIFY] = found if is_url(found) else absolute(found)
        return None
    try:
        address_of(word)
    except ConfigError as error:
        if word != remembered:
            raise
        say(f"Note: nobody is notified: {error}")
        return None
    return word if is_url(word) else absolute(word)


def hand_on(word: str | None, run: Run) -> None:
    """
    Have the job find it: from here on in the environment, and nowhere else.

    Args:
        word: From `settled`.
        run: That starts; says so where its last start had a URL that nobody has typed this time.
    """
    if word is not None:
        os.environ[NOTIFY] = word
    elif not os.environ.get(NOTIFY) and run.exists() and run.asked.get(HAD_URL):
        say(
            "Note: nobody is notified: a URL that is typed is kept nowhere. Type --notify again, set "
            f"{NOTIFY}, or let --notify name a file of mode 0600, which the run remembers."
        )
