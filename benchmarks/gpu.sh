#!/usr/bin/env bash
# Measures on one GPU and prints Markdown: the annotator's speed, training steps, and the tests that need a GPU.
# Takes under 9 minutes and needs no network: benchmarks/gpu.sh > gpu.md. PYTHON is the interpreter; options: see gpu.py.
set -euo pipefail
cd "$(dirname "$0")/.."
export HF_HUB_OFFLINE=1 PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
python=${PYTHON:-}
if [ -z "$python" ]; then
    if [ -x .venv/bin/python ]; then python=.venv/bin/python; else python=python3; fi
fi
exec "$python" benchmarks/gpu.py "$@"
