"""Converts one GGUF file to the directory that vLLM loads: safetensors, tokenizer, chat template.

A job: `python -m vllama_balancer.models.gguf_conversion SOURCE TARGET [LIMITS]`. Of this package, only this
module imports torch and transformers. Weights are dequantized to bfloat16 once; vLLM reads GGUF only through a plug-in,
and slowly. TARGET appears by rename once it is complete; of two runs at once, one converts.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gguf
import torch
import transformers
from tokenizers import pre_tokenizers

from vllama_balancer.gateway import Progress
from vllama_balancer.models.disk_space import MachineSpace, check_conversion_fits, check_quota, is_disk_full
from vllama_balancer.models.errors import ConversionFailed, DoesNotFit, SourceUnavailable
from vllama_balancer.models.job import Reporter, job_main
from vllama_balancer.models.store import RECORD, delete_tree, directory_size, locked_file

if TYPE_CHECKING:
    from collections.abc import Sequence

SPARE_BYTES = 2 << 30
"""What a conversion may reserve beyond the free memory: stacks of threads, and buffers that it never touches."""
BYTES_PER_WEIGHT = 2
"""bfloat16."""
_BAR = re.compile(r"^(?P<title>[^:\r]*):\s*\d+%.*?(?P<done>\d+)/(?P<total>\d+) \[")


def convert(source: Path, target: Path, reporter: Reporter, quota_bytes: int | None = None) -> None:
    """Converts `source` into `target` unless that is there, and reports its record.

    Raises SourceUnavailable, DoesNotFit or ConversionFailed, and then leaves no files behind.
    """
    with locked_file(target.with_name(f".{target.name}.lock")):
        if not (target / RECORD).is_file():
            _convert_into(source, target, reporter, quota_bytes)
    reporter.result(**json.loads((target / RECORD).read_bytes()))


def _convert_into(source: Path, target: Path, reporter: Reporter, quota_bytes: int | None) -> None:
    if not source.is_file():
        raise SourceUnavailable(f"{source} is not a file; give the path of a .gguf file")
    reporter.progress(Progress("reading the file"))
    reader = _read(source)
    _check_fits(reader, target, quota_bytes)
    staging = target.with_name(f".{target.name}.partial")
    delete_tree(staging)  # left by a killed run
    staging.mkdir(parents=True)
    try:
        _write_model(source, reader, staging, reporter)
        staging.rename(target)
    except BaseException as error:
        shutil.rmtree(staging, ignore_errors=True)
        if is_disk_full(error):
            raise DoesNotFit(f"the disk of {target.parent} became full; free some space and try again") from error
        raise


def _write_model(source: Path, reader: gguf.GGUFReader, staging: Path, reporter: Reporter) -> None:
    location, name = str(source.parent), source.name
    reporter.progress(Progress("converting the tokenizer"))
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(location, gguf_file=name)
        _complete_tokenizer(tokenizer, _text(reader, "tokenizer.ggml.pre"))
        reporter.progress(Progress("converting the weights"))
        model = transformers.AutoModelForCausalLM.from_pretrained(
            location, gguf_file=name, dtype=torch.bfloat16,
            quantization_config=transformers.GgufConfig(dequantize=True),
        )  # fmt: skip
    except (ValueError, KeyError, NotImplementedError, OSError) as error:
        raise ConversionFailed(
            f"{source} cannot be converted: {_first_line(error)}; use a safetensors version"
        ) from error
    model.generation_config._from_model_config = False
    model.generation_config.eos_token_id = _end_tokens(tokenizer, model.generation_config.eos_token_id)
    reporter.progress(Progress("writing safetensors"))
    model.save_pretrained(staging)
    tokenizer.save_pretrained(staging)
    _clean_config(staging / "config.json")
    for path in staging.iterdir():
        path.chmod(0o644)
    reporter.progress(Progress("checking the source"))
    record = {
        "source_sha256": _sha256(source), "size_bytes": directory_size(staging),
        "license": _text(reader, "general.license"), "name": _text(reader, "general.name"),
    }  # fmt: skip
    (staging / RECORD).write_text(json.dumps(record))


def _read(source: Path) -> gguf.GGUFReader:
    try:
        reader = gguf.GGUFReader(source)
    except (ValueError, IndexError, KeyError) as error:
        raise ConversionFailed(f"{source} is not a whole GGUF file ({_first_line(error)}); fetch it again") from error
    parts = reader.get_field("split.count")
    if parts is not None and int(parts.contents()) > 1:
        raise ConversionFailed(
            f"{source} is one of {int(parts.contents())} parts, and single files are converted only; join them with "
            "`llama-gguf-split --merge FIRST-PART NEW-FILE`, or use a safetensors version"
        )
    return reader


def _check_fits(reader: gguf.GGUFReader, target: Path, quota_bytes: int | None) -> None:
    result_bytes = sum(int(tensor.n_elements) for tensor in reader.tensors) * BYTES_PER_WEIGHT
    target.parent.mkdir(parents=True, exist_ok=True)
    check_quota(result_bytes, target.parent, quota_bytes)
    check_conversion_fits(result_bytes, target.parent, MachineSpace())


def _complete_tokenizer(tokenizer: Any, kind: str) -> None:
    """Restores a rule that the file format keeps only by name: SmolLM splits numbers into single digits."""
    if kind == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        text = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True)
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, text])


def _end_tokens(tokenizer: Any, declared: Any) -> list[int]:
    """Returns the ids that end a turn: the declared one, and those that end turns in chat templates."""
    ends = declared if isinstance(declared, list) else [declared]
    for token in ("<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>"):
        if token in tokenizer.get_vocab():
            ends = [*ends, tokenizer.convert_tokens_to_ids(token)]
    return sorted({end for end in ends if end is not None})


def _clean_config(path: Path) -> None:
    """Removes paths of the machine that converted the model."""
    config = json.loads(path.read_bytes())
    for key in ("_name_or_path", "_model_name_or_path", "quantization_config"):
        config.pop(key, None)
    path.write_text(json.dumps(config, indent=2))


def _text(reader: gguf.GGUFReader, key: str) -> str:
    value = reader.get_field(key)
    return str(value.contents()) if value is not None else ""


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]


class BarTap(io.TextIOBase):
    """A standard error that turns the libraries' progress bars into reports and passes on the rest."""

    def __init__(self, beneath: Any, reporter: Reporter) -> None:
        self._beneath = beneath
        self._reporter = reporter
        self._last_percent = -1

    def write(self, text: str) -> int:
        bar = _BAR.match(text.lstrip("\r\n"))
        if bar is None:
            return int(self._beneath.write(text))
        done, total = int(bar["done"]), int(bar["total"])
        if (percent := done * 100 // max(total, 1)) != self._last_percent:
            self._last_percent = percent
            self._reporter.progress(Progress(bar["title"].strip(" .").lower(), done, total))
        return len(text)

    def flush(self) -> None:
        self._beneath.flush()


def main(arguments: Sequence[str]) -> int:
    """Converts SOURCE into TARGET; returns the exit status."""
    parser = argparse.ArgumentParser()
    for name in ("source", "target"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--quota-bytes", type=int)
    parser.add_argument("--no-pickle", action="store_true", help="without effect: GGUF files have no pickles")
    asked = parser.parse_args(arguments)

    def work(reporter: Reporter) -> None:
        sys.stderr = BarTap(sys.stderr, reporter)
        convert(asked.source.absolute(), asked.target.absolute(), reporter, asked.quota_bytes)

    # A file that is not what it says must not take the memory of the workers.
    return job_main(work, memory_bytes=MachineSpace().memory_bytes() + SPARE_BYTES)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
