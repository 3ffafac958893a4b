"""Model names follow Ollama's grammar, defaults and comparison."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllama_balancer.errors import InvalidRequest
from vllama_balancer.names import ModelName, parse_name, same_model


@pytest.mark.parametrize(
    ("text", "display"),
    [
        ("smollm2", "smollm2:latest"),
        ("smollm2:135m", "smollm2:135m"),
        ("  smollm2:135m\n", "smollm2:135m"),
        ("library/smollm2", "smollm2:latest"),
        ("registry.ollama.ai/library/smollm2:latest", "smollm2:latest"),
        ("https://registry.ollama.ai/library/smollm2", "smollm2:latest"),
        ("Qwen/Qwen2.5-0.5B-Instruct", "Qwen/Qwen2.5-0.5B-Instruct:latest"),
        ("hf.co/org/repo:Q4_K_M", "hf.co/org/repo:Q4_K_M"),
        ("localhost:5000/me/model", "localhost:5000/me/model:latest"),
        ("http://localhost:5000/me/model:v1", "localhost:5000/me/model:v1"),
        ("_x:_1", "_x:_1"),
        ("smollm2:135m:local", "smollm2:135m"),
        ("smollm2:LOCAL", "smollm2:latest"),
        ("a" * 80, "a" * 80 + ":latest"),
    ],
)
def test_displays_the_shortest_form_with_the_tag(text: str, display: str) -> None:
    """Defaults are left out of the display, the tag never is."""
    assert parse_name(text).display == display


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        ":",
        "x:",
        ":x",
        "/x",
        "x/",
        "a//b",
        "a/b/c/d",
        "http://x",
        "a b",
        "-x",
        ".x",
        "x:-y",
        "a.b/c",
        "a" * 81,
        "x:" + "t" * 81,
        "x:y:z",
        "ü",
        "x\x00",
        "h" * 351 + "/n/m",
        ":local",
        "x\n:y",
    ],
)
def test_refuses_what_breaks_the_grammar(text: str) -> None:
    """Anything outside the grammar is one clear error."""
    with pytest.raises(InvalidRequest, match=r"^invalid model name$") as caught:
        parse_name(text)
    assert caught.value.reason == "INVALID_MODEL_NAME"


def test_compares_without_case_and_with_defaults() -> None:
    """Every part ignores case, and left-out parts equal their defaults."""
    assert same_model("X", "registry.OLLAMA.ai/Library/x:LATEST")
    assert same_model("Org/Repo:Q4", "org/repo:q4")
    assert not same_model("smollm2", "smollm2:135m")


def test_full_form_has_all_four_parts() -> None:
    """Capability errors name the model in full."""
    assert parse_name("m:t").full == "registry.ollama.ai/library/m:t"


@pytest.mark.parametrize("text", ["gpt:120b-cloud", "gpt:cloud", "gpt:Cloud"])
def test_recognises_cloud_tags(text: str) -> None:
    """Hosted variants are recognised by their tag."""
    assert parse_name(text).is_cloud
    assert not parse_name("gpt-cloud:120b").is_cloud


@pytest.mark.parametrize("text", ["x:cloud:local", "x:local:cloud", "x:120b-cloud:local", "x:LOCAL:Cloud"])
def test_refuses_local_and_cloud_at_once(text: str) -> None:
    """The two suffixes contradict each other."""
    with pytest.raises(InvalidRequest, match=f'^use either :local or :cloud, not both: "{text}"$'):
        parse_name(text)


@given(st.text(max_size=120))
def test_any_text_parses_or_is_refused(text: str) -> None:
    """No text makes the parser fail in any other way, and a display form parses to itself."""
    try:
        name = parse_name(text)
    except InvalidRequest:
        return
    again = parse_name(name.display)
    assert isinstance(again, ModelName)
    if not name.display.lower().endswith(":local"):
        assert (again.key, again.display) == (name.key, name.display)
