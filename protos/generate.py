"""Regenerates the gRPC stubs from the protos; `--check` fails when the committed ones differ.

The compiler is the one inside grpcio-tools, pinned in pyproject.toml, so that a checkout made
anywhere yields the same bytes. Proto paths equal Python paths, so imports are never patched.
"""

import argparse
import sys
import tempfile
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent
SOURCES = ROOT / "vllama_protos"


def generate(target: Path) -> None:
    """Writes the stubs of every proto below `target`. Raises RuntimeError when protoc refuses one."""
    well_known = resources.files("grpc_tools") / "_proto"
    protos = sorted(str(path.relative_to(ROOT)) for path in SOURCES.rglob("*.proto"))
    outputs = [f"--{kind}_out={target}" for kind in ("python", "pyi", "grpc_python", "mypy_grpc")]
    grpc_types = f"--plugin=protoc-gen-mypy_grpc={Path(sys.executable).with_name('protoc-gen-mypy_grpc')}"
    if protoc.main(["protoc", f"-I{ROOT}", f"-I{well_known}", grpc_types, *outputs, *protos]) != 0:
        raise RuntimeError("protoc refused a proto; its own message is above")


def stale(fresh: Path) -> list[str]:
    """Names the stubs under `fresh` that are missing from the tree or differ from it, and leftovers."""
    made = {path.relative_to(fresh): path.read_bytes() for path in fresh.rglob("*_pb2*")}
    kept = {
        path.relative_to(ROOT): path.read_bytes()
        for path in SOURCES.rglob("*_pb2*.py*")
        if path.parent.name != "__pycache__"
    }
    return sorted(str(name) for name in made.keys() | kept.keys() if made.get(name) != kept.get(name))


def main() -> int:
    """Returns the process's exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only compare; exit 1 on a difference")
    if not parser.parse_args().check:
        generate(ROOT)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        differing = stale(Path(folder))
    for name in differing:
        print(f"{name} differs from its proto: run `make protos` and commit the result", file=sys.stderr)
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
