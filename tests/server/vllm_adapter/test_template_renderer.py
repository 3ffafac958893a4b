"""Templates of requests: what they see, and that none of them can take more than its share."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import psutil
import pytest
import pytest_asyncio

from vllama_server.errors import InvalidRequest
from vllama_server.vllm_adapter.template_renderer import TemplateRenderer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

HELLO = {"role": "user", "content": "hello"}
ENDLESS = "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}x"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def renderer() -> AsyncIterator[TemplateRenderer]:
    """Renders; its processes end with the module."""
    renderer = TemplateRenderer()
    yield renderer
    await renderer.close()


def job(template: str, *messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Returns a job; the chat is one greeting unless messages are given."""
    given = {"parts": None, "variables": {}, "continue_last": False, **fields}
    return {"template": template, "messages": list(messages or (HELLO,)), **given}


def processes() -> list[int]:
    """Returns the rendering processes of this one."""
    children = psutil.Process().children(recursive=True)
    return [child.pid for child in children if "vllama_server.vllm_adapter.template_process" in child.cmdline()]


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{% for m in messages %}<{{ m.role }}>{{ m['content'] }}{% endfor %}", "<user>hello"),
        ("{{ bos_token }}{{ tools | tojson }}", '<s>[{"name": "<f>"}]'),
        ("{% generation %}{{ messages[0].content }}{% endgeneration %}", "hello"),
        ("{% for m in messages %}{% for part in m.content %}{{ part.text }}{% endfor %}{% endfor %}!", "hello!"),
        ("{% set c = messages[0]['content'] %}{% for p in c %}{{ p.type }}{% break %}{% endfor %}", "text"),
        ("{{ strftime_now('%Y') | length }}", "4"),
        ("{{ [1, 2] | tojson(indent=1, separators=[',', ':']) }}", "[\n 1,\n 2\n]"),
    ],
)
async def test_a_template_sees_what_the_models_own_sees(renderer: TemplateRenderer, template: str, text: str) -> None:
    """Messages, tools, special tokens, filters, loop controls; content in parts where it is looped over."""
    variables = {"bos_token": "<s>", "tools": [{"name": "<f>"}]}
    assert await renderer.render(job(template, variables=variables)) == text


async def test_an_answer_is_left_open_at_its_last_character(renderer: TemplateRenderer) -> None:
    """What the template puts behind it is cut; its own blanks stay, also those that a template would trim."""
    begun = {"role": "assistant", "content": "It is "}
    template = "{% for m in messages %}<{{ m.content | trim }}>{% endfor %}"
    assert await renderer.render(job(template, HELLO, begun, continue_last=True)) == "<hello><It is "
    with pytest.raises(InvalidRequest, match="leaves out the message"):
        await renderer.render(job("{{ messages[0].content }}", HELLO, begun, continue_last=True))


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (ENDLESS, "more than 2 s"),
        ("{{ ('A' * 1000000000) | length }}", "256 MiB"),
        ("{% set ns = namespace(t='A') %}{% for a in range(40) %}{% set ns.t = ns.t ~ ns.t %}{% endfor %}", "256 MiB"),
        ("{{ 'A' * 9000000 }}", "8 MiB"),
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{% if %}", "TemplateSyntaxError"),
        ("{{ 1 // 0 }}", "ZeroDivisionError"),
        ("{{ ''.__class__.__mro__ }}", "SecurityError"),
        ("{% include '/etc/passwd' %}", "no loader"),
        ("{{ " + "(" * 100_000 + "1" + ")" * 100_000 + " }}", "chat.template"),
    ],
)
async def test_a_template_that_cannot_be_rendered_is_the_requests_mistake(
    renderer: TemplateRenderer, template: str, reason: str
) -> None:
    """Whether it runs out of a limit or is wrong: refused by the field's name, and the next one is served."""
    with pytest.raises(InvalidRequest, match=reason) as caught:
        await renderer.render(job(template))
    assert caught.value.field == "chat.template"
    assert await renderer.render(job("{{ messages[0].content }}")) == "hello"


async def test_the_work_ends_with_the_caller() -> None:
    """The process of a template whose client has left is killed."""
    renderer = TemplateRenderer()
    call = asyncio.create_task(renderer.render(job(ENDLESS)))
    before = processes()
    async with asyncio.timeout(30):
        while not set(processes()) - set(before):
            await asyncio.sleep(0.01)
    call.cancel()
    await asyncio.wait({call})
    assert processes() == before
    assert await renderer.render(job("{{ messages[0].content }}")) == "hello"
    await renderer.close()
    assert processes() == before


async def test_a_process_has_none_of_the_workers_secrets(
    renderer: TemplateRenderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its environment is a short list of names."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    await renderer.render(job("x"))
    for number in processes():
        assert "HF_TOKEN" not in psutil.Process(number).environ()
