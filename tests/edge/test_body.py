"""Bodies are decompressed, checked and decoded; encoded JSON survives line splitting."""

from __future__ import annotations

import gzip
import json
import zlib
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllama_balancer.edge.body import check_structure, compact_json, decode_json, encode_line, encode_sse
from vllama_balancer.edge.config import EdgeConfig
from vllama_balancer.errors import InvalidRequest
from vllama_balancer.fake_gateway import FakeGateway

if TYPE_CHECKING:
    import aiohttp

    from tests.edge.conftest import Serve

BODY = json.dumps({"model": "smollm2:135m", "prompt": "hi", "stream": False}).encode()


@pytest.mark.parametrize(("coding", "data"), [("gzip", gzip.compress(BODY)), ("deflate", zlib.compress(BODY))])
async def test_compressed_bodies(http: aiohttp.ClientSession, coding: str, data: bytes) -> None:
    """Some clients compress bodies."""
    async with http.post("/api/generate", data=data, headers={"Content-Encoding": coding}) as reply:
        assert (await reply.json())["response"] == "Hello world"


async def test_a_damaged_body_is_400(http: aiohttp.ClientSession) -> None:
    """A body that cannot be decompressed is 400."""
    async with http.post("/api/generate", data=b"no gzip", headers={"Content-Encoding": "gzip"}) as reply:
        assert reply.status == 400
        assert "error" in await reply.json()


async def test_a_small_body_that_grows_is_413(serve: Serve) -> None:
    """The limit is that of the decompressed size."""
    bomb = gzip.compress(b" " * 10_000_000)
    async with (
        serve(FakeGateway(), EdgeConfig(max_body_bytes=1_000_000)) as http,
        http.post("/api/generate", data=bomb, headers={"Content-Encoding": "gzip"}) as reply,
    ):
        assert reply.status == 413


class Body(msgspec.Struct):
    """A body."""

    name: str | None = None


@given(
    st.recursive(
        st.none() | st.booleans() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_a_line_is_one_line_for_every_splitter(value: Any) -> None:
    """Every text survives the round trip, on one line."""
    line = encode_line(value)
    assert line.endswith(b"\n")
    assert line.decode().splitlines() == [line.decode()[:-1]]
    assert json.loads(line) == value


@pytest.mark.parametrize("text", ["…", "𝄩", "¨©", "ü\x7f", "\ua985\u80a8"])
def test_other_characters_stay_as_they_are(text: str) -> None:
    """Only whole characters are escaped, never parts of others."""
    assert encode_line(text).decode() == f'"{text}"\n'


def test_server_sent_events() -> None:
    """With and without a type."""
    assert encode_sse({"a": "\u2028"}) == b'data: {"a":"\\u2028"}\n\n'
    assert encode_sse({}, "ping") == b"event: ping\ndata: {}\n\n"


@pytest.mark.parametrize("body", [b"", b" \r\n\t"])
def test_nothing_is_a_missing_body(body: bytes) -> None:
    """Blanks count as no body."""
    with pytest.raises(InvalidRequest, match=r"^missing request body$"):
        decode_json(body, Body)


def test_a_wrong_type_names_its_place() -> None:
    """In the message and as the error's field."""
    with pytest.raises(InvalidRequest, match=r"Expected `str \| null`, got `int` - at `\$.name`") as caught:
        decode_json(b'{"name":1}', Body)
    assert caught.value.field == "name"


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff", b'{"x":' + b"[" * 100_000, b"\xef\xbb\xbf{}"])
def test_anything_else_is_an_invalid_request(body: bytes) -> None:
    """No other exception is raised."""
    with pytest.raises(InvalidRequest):
        decode_json(body, Body)


def test_compacting_keeps_numbers_and_order() -> None:
    """Only blanks between tokens are removed."""
    text = b'{ "z" : 1.50,\n "a" : 123456789012345678901234567890, "s" : " x " }'
    assert compact_json(text) == '{"z":1.50,"a":123456789012345678901234567890,"s":" x "}'
    with pytest.raises(InvalidRequest):
        compact_json(b"{")


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (rb'{"name":"\ud83d\ude00"}', "😀"),
        (rb'{"name":"a\ud83d"}', "a\ufffd"),
        (rb'{"name":"\uDE00b"}', "\ufffdb"),
        (rb'{"name":"\ud83d\ud83d\ude00"}', "\ufffd😀"),
        (rb'{"name":"\ud83dx\ude00"}', "\ufffdx\ufffd"),
        (rb'{"name":"\\\\ud83d"}', r"\\ud83d"),
        (rb'{"name":"\\\\\ud83d"}', "\\\\\ufffd"),
        (b'{"name":"\xf0\x9f\x98"}', "\ufffd"),
        (b'{"name":"a\xffb"}', "a\ufffdb"),
    ],
)
def test_halves_of_characters_are_replaced(body: bytes, name: str) -> None:
    """Clients that cut texts by length send half an emoji; whole ones and escaped backslashes stay."""
    assert decode_json(body, Body).name == name


@given(st.text())
def test_every_text_comes_through(text: str) -> None:
    """Escaped or not."""
    for ensure_ascii in (True, False):
        body = json.dumps({"name": text}, ensure_ascii=ensure_ascii).encode()
        assert decode_json(body, Body).name == text


def nested_in(count: int, item: str) -> bytes:
    """Returns a body of many values in a field that has no meaning."""
    return f'{{"name":"n","options":[{",".join([item] * count)}]}}'.encode()


@pytest.mark.parametrize(
    ("count", "item"), [(60_000, "[]"), (60_000, "{}"), (300_000, "1"), (300_000, '""'), (10_000, "[[],[],[],[]]")]
)
def test_bodies_of_too_many_parts_are_refused(count: int, item: str) -> None:
    """Before they are decoded: each part would cost the event loop time, and memory that its bytes do not show."""
    with pytest.raises(InvalidRequest, match="arrays and objects"):
        check_structure(nested_in(count, item))


def test_what_only_looks_like_parts_passes() -> None:
    """Brackets, commas, quotes and backslashes within texts are no parts."""
    for text in ("[{,}]" * 100_000, '\\"[,' * 100_000, "\\" * 100_000 + "[" * 100_000):
        check_structure(json.dumps({"name": text}).encode())
    check_structure(nested_in(20_000, "[1,2,3]"))


async def test_a_body_of_too_many_parts_is_400(http: aiohttp.ClientSession) -> None:
    """On every route, compressed or not."""
    data = gzip.compress(b'{"model":"smollm2:135m","prompt":"hi","options":{"a":[' + b"[]," * 5_000_000 + b"1]}}")
    async with http.post("/api/generate", data=data, headers={"Content-Encoding": "gzip"}) as reply:
        assert reply.status == 400
        assert "arrays and objects" in (await reply.json())["error"]


def test_too_many_halves_of_characters_are_refused() -> None:
    """A repair of millions of them would block the event loop; some thousands are replaced."""
    assert decode_json(b'{"name":"' + rb"\ud800" * 50_000 + b'"}', Body).name == "\ufffd" * 50_000
    with pytest.raises(InvalidRequest, match="surrogate"):
        decode_json(b'{"name":"' + rb"\ud800" * 1_000_000 + b'"}', Body)


def test_raw_json_has_whole_characters_too() -> None:
    """What passes through as it is must not carry a half that no tokenizer takes."""
    assert compact_json(rb'{"a": "\ud800"}') == '{"a":"\\ufffd"}'
