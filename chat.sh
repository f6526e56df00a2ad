#!/bin/sh
cd "$(dirname "$0")" && PATH="$PWD/.venv/bin:$PATH" && exec python launch/chat.py "$@"
