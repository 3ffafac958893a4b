"""Compares the protos with those of the last release and fails on what would break a client that was built against it.

The rules are those of `buf breaking` in its FILE category, as far as these protos can break them: what is on the
wire, in generated code or in protobuf's JSON stays as it was released; anything may be added. With buf installed, run
`buf breaking protos --against '.git#tag=vX.Y.Z,subdir=protos'` as well; this needs only the pinned compiler.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)
from grpc_tools import protoc

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOT = Path(__file__).resolve().parent
OURS = "vllama."
Declaration = DescriptorProto | EnumDescriptorProto | ServiceDescriptorProto


def last_release(repository: Path) -> str | None:
    """Names the newest tag v* among the ancestors of HEAD; None when there is none."""
    command = ["git", "describe", "--tags", "--match", "v*", "--abbrev=0"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def export(repository: Path, reference: str, target: Path) -> None:
    """Writes the protos of a commit or tag below `target`. CalledProcessError when there is no such one."""
    listing = ["git", "ls-tree", "-r", "--name-only", reference, "protos/"]
    names = subprocess.run(listing, cwd=repository, capture_output=True, text=True, check=True).stdout.splitlines()
    for name in names:
        if name.endswith(".proto"):
            path = target / Path(name).relative_to("protos")
            path.parent.mkdir(parents=True, exist_ok=True)
            show = ["git", "show", f"{reference}:{name}"]
            path.write_bytes(subprocess.run(show, cwd=repository, capture_output=True, check=True).stdout)


def described(folder: Path) -> FileDescriptorSet:
    """Compiles every proto below `folder`. RuntimeError when protoc refuses one."""
    well_known = resources.files("grpc_tools") / "_proto"
    protos = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.proto"))
    with tempfile.NamedTemporaryFile() as output:
        arguments = ["protoc", f"-I{folder}", f"-I{well_known}", f"--descriptor_set_out={output.name}", *protos]
        if protoc.main(arguments) != 0:
            raise RuntimeError("protoc refused a proto; its own message is above")
        return FileDescriptorSet.FromString(Path(output.name).read_bytes())


def breaks(before: FileDescriptorSet, after: FileDescriptorSet) -> list[str]:
    """Lists what a client of `before` misses or misreads in `after`, a sentence each."""
    old, new = _declarations(before), _declarations(after)
    found = []
    for name, (file, declaration) in old.items():
        if name not in new:
            found.append(f"{name} was removed")
            continue
        new_file, replacement = new[name]
        if type(replacement) is not type(declaration):
            found.append(f"{name} became another kind of declaration")
            continue
        if new_file != file:
            found.append(f"{name} moved from {file} to {new_file}")
        found += _differences(name, declaration, replacement)
    return found


def _declarations(files: FileDescriptorSet) -> dict[str, tuple[str, Declaration]]:
    """Maps full names to the files and descriptors of all messages, enums and services."""
    found: dict[str, tuple[str, Declaration]] = {}

    def add_message(prefix: str, file: str, message: DescriptorProto) -> None:
        name = f"{prefix}.{message.name}"
        found[name] = (file, message)
        for nested in message.nested_type:
            add_message(name, file, nested)
        found.update({f"{name}.{enum.name}": (file, enum) for enum in message.enum_type})

    for file in files.file:
        for message in file.message_type:
            add_message(file.package, file.name, message)
        found.update({f"{file.package}.{enum.name}": (file.name, enum) for enum in file.enum_type})
        found.update({f"{file.package}.{service.name}": (file.name, service) for service in file.service})
    return {name: declared for name, declared in found.items() if name.startswith(OURS)}


def _differences(name: str, old: Declaration, new: Declaration) -> Iterator[str]:
    match old, new:
        case DescriptorProto(), DescriptorProto():
            yield from _fields(name, old, new)
        case EnumDescriptorProto(), EnumDescriptorProto():
            yield from _values(name, old, new)
        case ServiceDescriptorProto(), ServiceDescriptorProto():
            yield from _methods(name, old, new)


def _fields(name: str, old: DescriptorProto, new: DescriptorProto) -> Iterator[str]:
    numbers = {field.number: field for field in new.field}
    names = {field.name: field for field in new.field}
    for field in old.field:
        same_name = names.get(field.name)
        if same_name is not None and same_name.number != field.number:
            yield f"{name}.{field.name} has number {same_name.number} instead of {field.number}"
        elif field.number not in numbers:
            yield f"{name}.{field.name} = {field.number} was removed"
        else:
            replacement = numbers[field.number]
            if replacement.name != field.name:
                yield f"{name}.{field.name} = {field.number} is now called {replacement.name}"
            yield from _changes(f"{name}.{field.name}", _shape(old, field), _shape(new, replacement))


def _shape(message: DescriptorProto, field: FieldDescriptorProto) -> dict[str, str]:
    """Says what decides how a field is written and how generated code shows it."""
    oneof = message.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else ""
    return {
        "type": field.type_name.lstrip(".") or FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower(),
        "cardinality": FieldDescriptorProto.Label.Name(field.label).removeprefix("LABEL_").lower(),
        "presence": "explicit" if field.proto3_optional else "implicit",
        "oneof": "" if field.proto3_optional else oneof,
        "JSON name": field.json_name,
    }


def _changes(name: str, old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[str]:
    for what, value in old.items():
        if new[what] != value:
            yield f"{name} has the {what} {new[what] or 'none'} instead of {value or 'none'}"


def _values(name: str, old: EnumDescriptorProto, new: EnumDescriptorProto) -> Iterator[str]:
    numbers = {value.name: value.number for value in new.value}
    for value in old.value:
        if value.name not in numbers:
            yield f"{name}.{value.name} = {value.number} was removed"
        elif numbers[value.name] != value.number:
            yield f"{name}.{value.name} has number {numbers[value.name]} instead of {value.number}"


def _methods(name: str, old: ServiceDescriptorProto, new: ServiceDescriptorProto) -> Iterator[str]:
    methods = {method.name: method for method in new.method}
    for method in old.method:
        replacement = methods.get(method.name)
        if replacement is None:
            yield f"{name}.{method.name} was removed"
            continue
        for what in ("input_type", "output_type", "client_streaming", "server_streaming"):
            before, after = getattr(method, what), getattr(replacement, what)
            if before != after:
                yield f"{name}.{method.name} has the {what.replace('_', ' ')} {after} instead of {before}"


def main() -> int:
    """Returns the process's exit status: 1 when something breaks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", metavar="REF", help="a tag or commit (default: the last tag v*)")
    reference = parser.parse_args().against or last_release(ROOT)
    if reference is None:
        print("There is no release tag v* yet, so there is nothing to compare with.")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        export(ROOT.parent, reference, Path(folder))
        found = breaks(described(Path(folder)), described(ROOT))
    for sentence in found:
        print(f"breaks clients of {reference}: {sentence}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
