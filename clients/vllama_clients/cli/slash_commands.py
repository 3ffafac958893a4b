"""The commands of a conversation, lines that begin with "/": settings, facts about the model, leaving."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vllama_clients.cli.chat import option_value
from vllama_clients.cli.failure import CommandFailed
from vllama_clients.cli.show import page

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vllama_clients.cli.api import Api
    from vllama_clients.cli.chat import Chat

HELP = '''Commands:
  /set parameter NAME VALUE   temperature, top_k, top_p, seed, num_predict, ...
  /set system TEXT            the system text
  /set think [LEVEL]          reason first: low, medium, high;  /set nothink
  /set format json            answer in JSON;  /set noformat
  /set verbose                counts and rates after each answer;  /set quiet
  /set nohistory              send no earlier turns;  /set history
  /show info                  the model;  parameters, system, template, license
  /clear                      forget what was said
  /load MODEL                 go on with another model, from the start
  /save NAME                  keep model, system text and parameters as NAME
  /bye                        leave;  also Ctrl-D

  """ begins and ends a message of several lines.  Ctrl-C stops an answer.'''
SHOWN = ("license", "modelfile", "parameters", "system", "template")


class ConversationEnded(Exception):
    """/bye was typed."""


@dataclass
class Settings:
    """What the commands change."""

    chat: Chat
    """The conversation."""
    verbose: bool = False
    """Whether counts and rates follow each answer."""


def run_command(line: str, settings: Settings, api: Api) -> str:
    """Runs one line and returns the text to print. CommandFailed if it cannot be done, ConversationEnded at /bye."""
    name, _, rest = line.partition(" ")
    rest = rest.strip()
    match name:
        case "/bye" | "/exit":
            raise ConversationEnded
        case "/?" | "/help":
            return HELP
        case "/clear":
            settings.chat.messages.clear()
            return "Cleared."
        case "/set":
            return _set(rest, settings)
        case "/show":
            return _show(rest or "info", settings, api)
        case "/load":
            return _load(rest, settings, api)
        case "/save":
            return _save(rest, settings, api)
    raise CommandFailed(f"Unknown command {name}; /? lists them.")


def _set(rest: str, settings: Settings) -> str:
    name, _, value = rest.partition(" ")
    value, chat = value.strip().strip('"'), settings.chat
    said = f"Set {rest}."
    match name:
        case "parameter":
            return _set_parameter(value, chat)
        case "system":
            chat.system = value
            said = "Set the system text." if value else "The system text is the model's own again."
        case "think":
            chat.think = value or True
        case "nothink":
            chat.think = False
        case "format" if value == "json":
            chat.output_format = "json"
        case "noformat":
            chat.output_format = None
        case "verbose" | "quiet":
            settings.verbose = name == "verbose"
        case "history" | "nohistory":
            chat.history = name == "history"
        case _:
            raise CommandFailed(f"Cannot set {rest!r}; /? lists what can be set.")
    return said


def _set_parameter(assignment: str, chat: Chat) -> str:
    name, _, value = assignment.partition(" ")
    if not name or not value:
        raise CommandFailed("Write /set parameter NAME VALUE, for example /set parameter temperature 0.2")
    chat.options[name] = [value.strip().strip('"')] if name == "stop" else option_value(value.strip())
    return f"Set {name} to {value}."


def _show(what: str, settings: Settings, api: Api) -> str:
    reply = api.post("/api/show", {"model": settings.chat.model})
    if what == "info":
        return page(reply)
    if what not in SHOWN:
        raise CommandFailed(f"Cannot show {what!r}; there are info, {', '.join(SHOWN)}.")
    if what == "system" and settings.chat.system:
        return settings.chat.system
    if what == "parameters" and settings.chat.options:
        return _parameters(settings.chat.options, str(reply.get(what) or ""))
    return str(reply.get(what) or f"No {what}.")


def _parameters(chosen: Mapping[str, Any], of_the_model: str) -> str:
    """Lists the options of this conversation, then the model's presets."""
    lines = [f"{name:<30} {value}" for name, value in chosen.items()]
    sections = ["Set here:", *lines, *(["", "Set by the model:", of_the_model] if of_the_model else [])]
    return "\n".join(sections)


def _load(model: str, settings: Settings, api: Api) -> str:
    if not model:
        raise CommandFailed("Write /load MODEL.")
    api.post("/api/show", {"model": model})
    settings.chat.model = model
    settings.chat.messages.clear()
    return f"Going on with {model}."


def _save(name: str, settings: Settings, api: Api) -> str:
    if not name:
        raise CommandFailed("Write /save NAME.")
    body = {"model": name, "from": settings.chat.model, "stream": False, "parameters": settings.chat.options}
    api.post("/api/create", {**body, "system": settings.chat.system} if settings.chat.system else body)
    return f"Saved as {name}."
