#!/usr/bin/env bash
# Resolves pyproject.toml anew into the pinned lists. The cpu and dev lists come out of one
# resolution, so that they can share an environment; torch and its broken companions are left
# out by overrides.txt.
set -euo pipefail
cd "$(dirname "$0")/.."
tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
python3 -m venv "$tools/venv"
"$tools/venv/bin/pip" install -q --disable-pip-version-check 'uv>=0.9'

compile() {  # compile OUTPUT ARGUMENTS…
  "$tools/venv/bin/uv" pip compile -q --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
    --no-annotate --custom-compile-command 'make lock' -o "$1" pyproject.toml "${@:2}"
}

cpu=(requirements/torch.in --override requirements/overrides.txt)
compile "$tools/all.txt" "${cpu[@]}" --extra cpu --extra dev --extra ray
compile requirements/cpu.txt "${cpu[@]}" --extra cpu -c "$tools/all.txt"
compile requirements/dev.txt --override requirements/overrides.txt --extra dev --extra ray -c "$tools/all.txt"
grep -vE '^(torch|torchvision|torchaudio|torchcodec|triton)==' "$tools/all.txt" >"$tools/shared.txt"
compile requirements/gpu.txt --extra gpu -c <(grep -E '^(grpcio|protobuf|aiohttp|msgspec|uvloop|typer|rich|psutil)' "$tools/shared.txt")
