"""The commands' HTTP client for the Ollama API, on the standard library's http.client.

A command makes one request and reads one stream; http.client does that with a fifth of the start-up
time of an asynchronous library, and Ctrl-C in the middle of a read closes the connection, which
ends the generation on the server.
"""

from __future__ import annotations

import json
import ssl
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import TYPE_CHECKING, Any

from vllama_clients.cli.address import HttpAddress, api_key, http_address
from vllama_clients.cli.failure import CommandFailed, NotServed
from vllama_clients.cli.tls import authority

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping

CONNECT_TIMEOUT_SECONDS = 10.0


class Api:
    """Calls one server; each call opens a connection and closes it at its end.

    CommandFailed when the server cannot be reached, refuses, or ends a stream in the middle;
    NotServed for its 404.
    """

    def __init__(self, address: HttpAddress, api_key: str = "", authority: str | None = None) -> None:
        self.address = address
        """The server."""
        self._api_key = api_key
        self._authority = authority

    def get(self, path: str) -> dict[str, Any]:
        """Fetches one object."""
        with self._response("GET", path, None) as response:
            return _object(response.read())

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Sends an object and reads one back; an empty answer is an empty object."""
        with self._response("POST", path, body) as response:
            return _object(response.read() or b"{}")

    def delete(self, path: str, body: Mapping[str, Any]) -> None:
        """Sends an object and reads nothing back."""
        with self._response("DELETE", path, body) as response:
            response.read()

    def stream(self, path: str, body: Mapping[str, Any]) -> Generator[dict[str, Any], None, None]:
        """Sends an object and yields the lines of the answer as they come; closing it ends the call."""
        with self._response("POST", path, body) as response:
            for line in _lines(response):
                message = _object(line)
                if "error" in message:
                    raise CommandFailed(str(message["error"]))
                yield message

    @contextmanager
    def _response(self, method: str, path: str, body: Mapping[str, Any] | None) -> Iterator[HTTPResponse]:
        connection = self._connect()
        try:
            payload = None if body is None else json.dumps(body).encode()
            connection.request(method, self.address.path + path, payload, self._headers())
            response = connection.getresponse()
            if response.status >= 400:
                raise _refusal(response)
            yield response
        except (OSError, HTTPException) as error:
            raise CommandFailed(f"The connection to {self.address} broke: {_words(error)}.") from error
        finally:
            connection.close()

    def _connect(self) -> HTTPConnection:
        host, port = self.address.host, self.address.port
        if self.address.scheme == "https":
            tls = ssl.create_default_context(cadata=self._authority)
            connection: HTTPConnection = HTTPSConnection(host, port, timeout=CONNECT_TIMEOUT_SECONDS, context=tls)
        else:
            connection = HTTPConnection(host, port, timeout=CONNECT_TIMEOUT_SECONDS)
        try:
            connection.connect()
        except OSError as error:
            raise CommandFailed(
                f"No server answers at {self.address} ({_words(error)}): start one with `vllama serve`, "
                "or name another in VLLAMA_HOST."
            ) from error
        # A model may load for minutes before the first token; only connecting is bounded.
        connection.sock.settimeout(None)
        return connection

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json"}
        if self._api_key:
            headers["Authorization"] = f"Bearer {self._api_key}"
        return headers


def api_of(environment: Mapping[str, str]) -> Api:
    """Makes the client that an environment describes."""
    return Api(http_address(environment), api_key(environment), authority(environment))


def _lines(response: HTTPResponse) -> Iterator[bytes]:
    while line := response.readline():
        if line.strip():
            yield line


def _object(line: bytes) -> dict[str, Any]:
    try:
        message = json.loads(line)
    except ValueError:
        message = None
    if not isinstance(message, dict):
        raise CommandFailed("The server's answer is not a JSON object; is it a vllama or Ollama server?")
    return message


def _refusal(response: HTTPResponse) -> CommandFailed:
    text = response.read().decode(errors="replace").strip()
    try:
        error = json.loads(text)["error"]
    except (ValueError, KeyError, TypeError):
        error = text or response.reason
    kind = NotServed if response.status == 404 else CommandFailed
    return kind(str(error) or f"The server answered {response.status}.")


def _words(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(text).lower()
