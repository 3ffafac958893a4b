"""The conversation on a terminal: turns, several lines, commands, interruptions."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.clients.cli.ollama_server import SHOW, chunk, last
from vllama_clients.cli.chat import Chat
from vllama_clients.cli.failure import CommandFailed
from vllama_clients.cli.repl import Repl

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


class FakeApi:
    """Answers every chat with "Hello" or the given answer, and keeps the requests."""

    def __init__(self) -> None:
        self.chats: list[dict[str, Any]] = []
        self.posts: list[tuple[str, dict[str, Any]]] = []
        self.answer: Callable[[], Iterator[dict[str, Any]]] = lambda: iter([chunk("Hello"), last()])
        self.closed = 0
        self.interrupted = False
        """True if Ctrl-C is typed during a request that is no chat."""

    def stream(self, _: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Plays an answer."""
        self.chats.append(body)
        try:
            yield from self.answer()
        finally:
            self.closed += 1

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Has every model but "missing"."""
        self.posts.append((path, dict(body)))
        if self.interrupted:
            raise KeyboardInterrupt
        if body.get("model") == "missing":
            raise CommandFailed("model 'missing' not found")
        return SHOW if path == "/api/show" else {}


class Terminal(io.StringIO):
    """Keeps the written text and claims to be a terminal."""

    def isatty(self) -> bool:
        """Returns True."""
        return True


@pytest.fixture
def api() -> FakeApi:
    """A server."""
    return FakeApi()


@pytest.fixture
def talk(api: FakeApi) -> Callable[..., str]:
    """Holds a conversation of these lines, the last one followed by Ctrl-D, and returns what was printed.

    A line may be an exception, which is raised as if a key had done it.
    """

    def run(*lines: str | BaseException, chat: Chat | None = None) -> str:
        typed = iter(lines)
        out = Terminal()

        def read(_: str) -> str:
            line = next(typed, EOFError())
            if isinstance(line, BaseException):
                raise line
            return line

        Repl(api, chat or Chat("m"), read=read, out=out).run()
        return out.getvalue()

    return run


def contents(body: dict[str, Any]) -> list[str]:
    """The texts of a request's turns."""
    return [message["content"] for message in body["messages"]]


def test_the_second_turn_carries_the_first(api: FakeApi, talk: Callable[..., str]) -> None:
    """The conversation so far is sent with each question."""
    talk("Hi", "Again")
    assert contents(api.chats[1]) == ["Hi", "Hello", "Again"]


def test_several_lines_between_fences(api: FakeApi, talk: Callable[..., str]) -> None:
    """Three quotes begin and end a message of several lines."""
    talk('"""Dear model,', "how are you?", 'Yours"""')
    assert contents(api.chats[0]) == ["Dear model,\nhow are you?\nYours"]


def test_fences_on_one_line(api: FakeApi, talk: Callable[..., str]) -> None:
    """A message may begin and end with fences on one line."""
    talk('"""Hi"""')
    assert contents(api.chats[0]) == ["Hi"]


def test_empty_lines_are_skipped(api: FakeApi, talk: Callable[..., str]) -> None:
    """An empty line sends nothing."""
    talk("", "   ")
    assert api.chats == []


def test_bye_ends(api: FakeApi, talk: Callable[..., str]) -> None:
    """Lines after /bye are not read."""
    talk("/bye", "Hi")
    assert api.chats == []


def test_ctrl_c_stops_the_answer_and_not_the_program(api: FakeApi, talk: Callable[..., str]) -> None:
    """The stream is closed, its text stays in the conversation, and the next question is sent."""

    def interrupted() -> Iterator[dict[str, Any]]:
        yield chunk("Hel")
        raise KeyboardInterrupt

    api.answer = interrupted
    talk("Hi", "Go on")
    assert api.closed == 2
    assert contents(api.chats[1]) == ["Hi", "Hel", "Go on"]


def test_ctrl_c_stops_a_command_and_not_the_program(api: FakeApi, talk: Callable[..., str]) -> None:
    """A /show or /load that takes long can be given up."""
    api.interrupted = True
    talk("/show info", "Hi")
    assert contents(api.chats[0]) == ["Hi"]


def test_ctrl_c_at_the_prompt_clears_the_line(api: FakeApi, talk: Callable[..., str]) -> None:
    """An interrupt while typing does not end the conversation."""
    assert "Ctrl-D or /bye" in talk(KeyboardInterrupt(), "Hi")
    assert len(api.chats) == 1


def test_a_failed_answer_does_not_end_the_conversation(api: FakeApi, talk: Callable[..., str]) -> None:
    """The server's sentence is printed and the next line is read; the failed question is forgotten."""

    def busy() -> Iterator[dict[str, Any]]:
        raise CommandFailed("server busy")
        yield

    api.answer = busy
    assert talk("Hi", "Again").count("Error: server busy") == 2
    assert contents(api.chats[1]) == ["Again"]


def test_thinking_is_dimmed_on_a_terminal(api: FakeApi, talk: Callable[..., str]) -> None:
    """Reasoning is written between the codes for dim and plain."""
    api.answer = lambda: iter([chunk(thinking="Hm"), chunk("Yes"), last()])
    assert "\x1b[2mThinking...\nHm\n...done thinking.\x1b[0m\n\nYes" in talk("Hi")


@pytest.mark.parametrize(
    ("command", "key", "value"),
    [
        ("/set parameter temperature 0.2", "options", {"temperature": 0.2}),
        ("/set parameter num_predict 7", "options", {"num_predict": 7}),
        ("/set parameter stop END", "options", {"stop": ["END"]}),
        ("/set think", "think", True),
        ("/set think high", "think", "high"),
        ("/set nothink", "think", False),
        ("/set format json", "format", "json"),
    ],
)
def test_settings_are_sent(api: FakeApi, talk: Callable[..., str], command: str, key: str, value: object) -> None:
    """What was set goes with the next question."""
    talk(command, "Hi")
    assert api.chats[0][key] == value


def test_set_system(api: FakeApi, talk: Callable[..., str]) -> None:
    """The system text stands first."""
    talk('/set system "Be brief."', "Hi")
    assert api.chats[0]["messages"][0] == {"role": "system", "content": "Be brief."}


def test_nohistory(api: FakeApi, talk: Callable[..., str]) -> None:
    """Earlier turns are left out on request."""
    talk("/set nohistory", "Hi", "Again")
    assert contents(api.chats[1]) == ["Again"]


def test_verbose(talk: Callable[..., str]) -> None:
    """Counts and rates follow the answer on request."""
    assert "10.00 tokens/s" in talk("/set verbose", "Hi")


def test_clear_forgets(api: FakeApi, talk: Callable[..., str]) -> None:
    """After /clear the conversation begins anew."""
    talk("Hi", "/clear", "Again")
    assert contents(api.chats[1]) == ["Again"]


def test_load_goes_on_with_another_model(api: FakeApi, talk: Callable[..., str]) -> None:
    """The next question goes to the new model, without the old turns."""
    talk("Hi", "/load other", "Again")
    assert api.chats[1]["model"] == "other"
    assert contents(api.chats[1]) == ["Again"]


def test_loading_an_unknown_model_keeps_the_old_one(api: FakeApi, talk: Callable[..., str]) -> None:
    """A wrong name is an error and changes nothing."""
    assert "model 'missing' not found" in talk("/load missing", "Hi")
    assert api.chats[0]["model"] == "m"


def test_save_creates_a_model(api: FakeApi, talk: Callable[..., str]) -> None:
    """/save keeps the system text and the parameters under a name."""
    talk("/set system Be brief.", "/set parameter top_k 5", "/save mine")
    assert api.posts == [
        (
            "/api/create",
            {"model": "mine", "from": "m", "stream": False, "parameters": {"top_k": 5}, "system": "Be brief."},
        )
    ]


def test_show(talk: Callable[..., str]) -> None:
    """/show prints the model's facts, all or one part."""
    assert "134.52M" in talk("/show")
    assert "{% for message in messages %}" in talk("/show template")


def test_show_parameters_has_what_was_set(talk: Callable[..., str]) -> None:
    """The conversation's own options come first, then those of the model, each by its name."""
    printed = talk("/set parameter seed 7", "/show parameters")
    assert re.search(r"Set here:\nseed +7\n\nSet by the model:\n\S", printed)


def test_the_system_text_can_be_set_and_given_back(api: FakeApi, talk: Callable[..., str]) -> None:
    """The reply ends with one period, whatever the text ends with."""
    printed = talk("/set system You are brief.", "/set system", "Hi")
    assert "Set the system text.\n" in printed and "the model's own again" in printed
    assert api.chats[-1]["messages"][0]["role"] == "user"


def test_the_help_fits_a_screen(talk: Callable[..., str]) -> None:
    """80 columns, and no more lines than fit above the prompt."""
    lines = talk("/?").splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= 80


@pytest.mark.parametrize("line", ["/nonsense", "/set nonsense", "/show nonsense", "/set parameter", "/load", "/save"])
def test_wrong_commands_are_explained(api: FakeApi, talk: Callable[..., str], line: str) -> None:
    """A command that fails prints why, and the conversation goes on."""
    assert len(talk(line, "Hi").splitlines()) > 2
    assert len(api.chats) == 1


def test_help(talk: Callable[..., str]) -> None:
    """/? lists the commands."""
    assert "/set parameter NAME VALUE" in talk("/?")
