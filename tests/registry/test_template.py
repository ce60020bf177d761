"""Templates: text and {{ content }}, nothing else."""

import pytest

from loradock.registry.errors import InvalidArgument
from loradock.registry.template import check_template, render


@pytest.mark.contract("X5")
@pytest.mark.parametrize(
    "template",
    [
        "{{ 'a' * 300000000 }}",
        "{{ content * 9 }}",
        "{{ content.__class__ }}",
        "{{ content[0] }}",
        "{{ content|upper }}",
        "{{ content() }}",
        "{{ other }} {{ content }}",
        "{% for c in content %}{{ c }}{% endfor %}",
        "{% set x = content %}{{ content }}",
        "{% include 'x' %}{{ content }}",
        "{% macro m() %}{% endmacro %}{{ content }}",
        "{% if content %}{{ content }}{% endif %}",
        "{{ content if content }}",
        "{{ content ~ content }}",
        "{{ self }}{{ content }}",
        "{{ 1 }}{{ content }}",
        "no content at all",
        "{{ content",
        "{% nonsense %}",
        "",
    ],
)
def test_x5_all_but_text_and_content_is_refused(template):
    assert check_template(template)
    with pytest.raises(InvalidArgument):
        render(template, "x")


@pytest.mark.contract("X5")
def test_x5_content_is_put_in_as_it_is():
    template = "Label:\n{{ content }}\n{# said twice #}{{content}}\n"
    assert check_template(template) == []
    content = "{{ content }} <b> {% raw %}"
    assert render(template, content) == f"Label:\n{content}\n{content}\n"


@pytest.mark.contract("X5")
def test_x5_output_is_capped():
    assert render("{{ content }}" * 3, "x" * 10, max_chars=30) == "x" * 30
    with pytest.raises(InvalidArgument, match="29 characters"):
        render("{{ content }}" * 3, "x" * 10, max_chars=29)
