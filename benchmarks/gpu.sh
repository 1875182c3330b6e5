#!/usr/bin/env bash
# What this project does on one GPU, as Markdown: the annotator's speed, training steps, and the tests that need a GPU.
# Under 9 minutes, without network: benchmarks/gpu.sh > gpu.md. PYTHON names the interpreter; options: see gpu.py.
set -euo pipefail
cd "$(dirname "$0")/.."
export HF_HUB_OFFLINE=1 PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
python=${PYTHON:-}
if [ -z "$python" ]; then
    if [ -x .venv/bin/python ]; then python=.venv/bin/python; else python=python3; fi
fi
exec "$python" benchmarks/gpu.py "$@"
