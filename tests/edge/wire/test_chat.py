"""Templates in Go's language are recognised, those in Jinja pass."""

from __future__ import annotations

import pytest

from vllama_balancer.edge.wire.chat import check_template
from vllama_balancer.errors import InvalidRequest


@pytest.mark.parametrize(
    "text",
    [
        "{{ .Prompt }}",
        "{{- range $i, $_ := .Messages }}{{ end }}",
        "{{ if .System }}<|system|>{{ end }}",
        "{{- end }}",
        "{{ $last := 1 }}",
    ],
)
def test_go_templates_are_refused(text: str) -> None:
    """With the field's name and what to do instead."""
    with pytest.raises(InvalidRequest, match="give a Jinja chat template") as caught:
        check_template(text)
    assert caught.value.field == "template"


@pytest.mark.parametrize(
    "text",
    [
        "{% for message in messages %}{{ message.content }}{% endfor %}",
        "{{ range(3) }}{{ 'a' if tools else 'b' }}{{- bos_token }}{{ ifs }}{{ ending }}",
        "plain text",
    ],
)
def test_jinja_templates_pass(text: str) -> None:
    """Unchanged."""
    assert check_template(text) == text
