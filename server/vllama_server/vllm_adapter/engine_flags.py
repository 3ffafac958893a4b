"""Textual engine arguments read by vLLM's own command line parser.

vLLM has some two hundred arguments with types, choices and JSON forms of their own. Its parser
already knows them all, so nothing about them is repeated here.
"""

from __future__ import annotations

import difflib
from dataclasses import fields
from typing import TYPE_CHECKING, Any, NoReturn

from vllm import AsyncEngineArgs
from vllm.utils.argparse_utils import FlexibleArgumentParser

if TYPE_CHECKING:
    from collections.abc import Mapping

_SWITCH = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}


class _Parser(FlexibleArgumentParser):  # type: ignore[misc]  # vLLM is not analysed
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def read_flags(given: Mapping[str, str]) -> dict[str, Any]:
    """Types every value. Raises ValueError, without "--engine-arg" in front, for a wrong key or value."""
    known = {field.name for field in fields(AsyncEngineArgs)}
    parser = AsyncEngineArgs.add_cli_args(_Parser(add_help=False))
    switches = {
        action.dest for action in parser._actions if any(flag.startswith("--no-") for flag in action.option_strings)
    }
    return {_key(key, known): _value(parser, key, value, _key(key, known) in switches) for key, value in given.items()}


def _key(key: str, known: set[str]) -> str:
    name = key.replace("-", "_")
    if name in known:
        return name
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]}?" if near else " The keys are those of vLLM's AsyncEngineArgs."
    raise ValueError(f"{key}: vLLM has no such engine argument.{hint}")


def _value(parser: Any, key: str, value: str, is_switch: bool) -> Any:
    name = key.replace("-", "_")
    flag = "--" + name.replace("_", "-")
    if is_switch:
        if value.lower() not in _SWITCH:
            raise ValueError(f"{key}={value}: is a switch; give true or false.")
        return _SWITCH[value.lower()]
    try:
        parsed = parser.parse_args([f"{flag}={value}"])
    except (ValueError, SystemExit) as error:
        raise ValueError(f"{key}={value}: {error}") from error
    return getattr(parsed, name)
