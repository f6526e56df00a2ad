#!/bin/sh
cd "$(dirname "$0")" && PATH="$PWD/.venv/bin:$PATH" && exec python launch/finetune.py --nodes 1 --gpus "${1:-1}"
