"""Prompt templates: what syntax they may use, and how they are rendered.

The allow-list is text and `{{ content }}`, nothing else: a sandbox alone would still
render `{{ 'a' * 300000000 }}`. The sandbox and the cap on output are the second fence.
"""

from __future__ import annotations

from functools import lru_cache

from jinja2 import StrictUndefined, Template, TemplateError, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from loradock.registry.errors import InvalidArgument

MAX_RENDERED_CHARS = 4 << 20
_ALLOWED = (nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False
    )
    for names in (environment.globals, environment.filters, environment.tests):
        names.clear()
    return environment


_ENVIRONMENT = _environment()


def check_template(template: str) -> list[str]:
    """Say what is wrong with a template, a sentence each; empty if it may be used."""
    try:
        tree = _ENVIRONMENT.parse(template)
    except (TemplateError, RecursionError) as error:
        return [f"does not parse: {error!s:.200}"]
    problems = sorted({problem for node in _walk(tree) if (problem := _problem(node))})
    if not problems and not any(isinstance(node, nodes.Name) for node in _walk(tree)):
        problems = ["never uses {{ content }}"]
    return problems


def render(template: str, content: str, max_chars: int = MAX_RENDERED_CHARS) -> str:
    """Put the content into the template; InvalidArgument if either can't be used."""
    pieces, length = [], 0
    for piece in _compiled(template).generate(content=content):
        length += len(piece)
        if length > max_chars:
            raise InvalidArgument("content", f"renders to more than {max_chars} characters")
        pieces.append(piece)
    return "".join(pieces)


@lru_cache(maxsize=256)
def _compiled(template: str) -> Template:
    problems = check_template(template)
    if problems:
        raise InvalidArgument("template", "; ".join(problems))
    return _ENVIRONMENT.from_string(template)


def _walk(tree: nodes.Template) -> list[nodes.Node]:
    found: list[nodes.Node] = []
    waiting: list[nodes.Node] = [tree]
    while waiting:
        node = waiting.pop()
        found.append(node)
        waiting.extend(node.iter_child_nodes())
    return found


def _problem(node: nodes.Node) -> str:
    if not isinstance(node, _ALLOWED):
        return f"uses {type(node).__name__}; only text and {{{{ content }}}} are allowed"
    if isinstance(node, nodes.Name) and node.name != "content":
        return f"uses {node.name!r}; only text and {{{{ content }}}} are allowed"
    return ""
