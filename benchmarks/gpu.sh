#!/usr/bin/env bash
# Everything that only a GPU can tell, in at most ten minutes on one device: `benchmarks/gpu.sh [--out FOLDER]`.
# Each part writes FOLDER/PART.json and is skipped where that is there, so that a run which was stopped goes on.
# `benchmarks/gpu.sh --device cpu --smoke` tries all parts out on a small network.
set -euo pipefail
cd "$(dirname "$0")/.."
exec timeout "${GPU_SECONDS:-600}" python -m benchmarks.gpu "$@"
