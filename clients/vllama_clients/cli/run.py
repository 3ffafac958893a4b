"""`vllama run`: one prompt and its answer, or a conversation when there is no prompt and a terminal."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from vllama_clients.cli.answer import AnswerPrinter, statistics
from vllama_clients.cli.api import Api, api_of
from vllama_clients.cli.chat import Chat, option_value
from vllama_clients.cli.failure import CommandFailed, NotServed
from vllama_clients.cli.pull_progress import pull
from vllama_clients.cli.repl import Repl


def command(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="The model's name.")],
    prompt: Annotated[list[str] | None, typer.Argument(help="The prompt; piped input is added to it.")] = None,
    system: Annotated[str, typer.Option(help="System text, instead of the model's own.")] = "",
    option: Annotated[
        list[str] | None, typer.Option("--option", "-o", help="Sampling option, e.g. temperature=0; repeatable.")
    ] = None,
    output_format: Annotated[str, typer.Option("--format", help='"json", or a file with a JSON schema.')] = "",
    think: Annotated[bool | None, typer.Option("--think/--no-think", help="Reason before the answer.")] = None,
    effort: Annotated[str, typer.Option(help="How hard to reason: low, medium, high, max.")] = "",
    hide_thinking: Annotated[bool, typer.Option("--hide-thinking", help="Do not print the reasoning.")] = False,
    keep_alive: Annotated[str, typer.Option("--keep-alive", "--keepalive", help="E.g. 10m; -1 for ever.")] = "",
    verbose: Annotated[bool, typer.Option("--verbose", help="Print counts and rates after an answer.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole answer as one JSON object.")] = False,
) -> None:
    """Chats with a model, or answers one prompt.

    Example: cat report.txt | vllama run smollm2:135m "Summarise this:"
    """
    chat = Chat(
        model,
        system=system,
        options=_options(option or []),
        output_format=_format(output_format),
        think=effort or think,
        keep_alive=option_value(keep_alive) if keep_alive else None,
    )
    api = api_of(context.obj)
    question = _question(prompt or [])
    if not question and not _is_interactive():
        raise typer.BadParameter("there is no prompt: give one, or pipe one in", param_hint="PROMPT")
    _ensure_installed(api, model)
    if not question:
        Repl(api, chat, hide_thinking=hide_thinking, verbose=verbose).run()
    elif as_json:
        print(json.dumps(_whole(api, chat, question), ensure_ascii=False))
    else:
        last = AnswerPrinter(sys.stdout, hide_thinking=hide_thinking).show(chat.ask(api, question))
        if verbose:
            print(f"\n{statistics(last)}", file=sys.stderr)


def _question(words: list[str]) -> str:
    # Python has no stdin where it was closed (`<&-`).
    piped = "" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.read()
    return "\n\n".join(part for part in (" ".join(words), piped.strip()) if part)


def _is_interactive() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def _options(assignments: list[str]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{assignment!r} is not name=value", param_hint="--option")
        if name == "stop":
            options.setdefault("stop", []).append(value)
        else:
            options[name] = option_value(value)
    return options


def _format(text: str) -> Any:
    if not text or text == "json":
        return text or None
    try:
        return json.loads(Path(text).read_text(encoding="utf-8"))
    except OSError as error:
        raise typer.BadParameter(f'{text!r} is neither "json" nor a readable file: {error.strerror}') from error
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} holds no JSON schema: {error}") from error


def _ensure_installed(api: Api, model: str) -> None:
    """Downloads the model if the server does not have it, as `ollama run` does."""
    try:
        api.post("/api/show", {"model": model})
    except NotServed:
        pull(api, model)


def _whole(api: Api, chat: Chat, question: str) -> dict[str, Any]:
    chunks = list(chat.ask(api, question))
    if not chunks or not chunks[-1].get("done"):
        raise CommandFailed("The answer ended in the middle: the server closed the connection.")
    messages = [chunk.get("message", {}) for chunk in chunks]
    whole = {
        "role": "assistant",
        "content": "".join(message.get("content", "") for message in messages),
        "thinking": "".join(message.get("thinking", "") for message in messages),
        "tool_calls": [call for message in messages for call in message.get("tool_calls", ())],
    }
    return {
        **chunks[-1],
        "message": {key: value for key, value in whole.items() if value or key in ("role", "content")},
    }
