"""
    python launch/serve.py --run my-run
    python launch/serve.py --checkpoint HuggingFaceTB/SmolLM2-135M-Instruct --port 8001

Answers programs that speak OpenAI's API at http://127.0.0.1:8000/v1, and people on a page at
http://127.0.0.1:8000, with a checkpoint of a run, also while it trains, or any folder that --init
takes. On a cluster, have your ssh bring the port home: docs/guide.md shows how.

Flags: flags/serve.py; work: dialogue/.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec

import launch.console.ctrl_c  # noqa: F401  first: it is for what follows
from instruct_core.errors import ConfigError, how_to_install
from launch.console.lines import guarded
from launch.flags.parse import check_counts, parse_flags
from launch.flags.run import check_model_flags
from launch.flags.serve import Serve


def main() -> int:
    flags = parse_flags(Serve, sys.argv[1:], usage=__doc__)
    flags.sampling.check()
    check_counts(flags, "max_new_tokens")
    check_model_flags(flags.model)
    missing = [name for name in ("starlette", "uvicorn") if find_spec(name) is None]
    if missing:
        raise ConfigError(f"This command needs the package {missing[0]}. {how_to_install('serve')}")
    from launch.dialogue.listening import serve

    return serve(flags)


if __name__ == "__main__":
    sys.exit(guarded(main))
