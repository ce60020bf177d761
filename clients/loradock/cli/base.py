"""`loradock base`, as far as it needs no server on this host."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from loradock.cli.command import JsonOption, LimitOption, command, noun
from loradock.cli.output import show_record, show_table
from loradock.cli.session import connect

if TYPE_CHECKING:
    from loradock.client import BaseModel

app = noun("base", "See the bases that adapters are made for.")


@command(app, "list", "base list", gives="a list of `BaseModel`")
def list_(context: typer.Context, limit: LimitOption = None, as_json: JsonOption = False) -> None:
    """List the bases that versions are admitted for."""
    with connect(context) as client:
        show_table(
            islice(client.bases.list(), limit),
            {
                "base": _short_name,
                "architecture": lambda b: b.architecture,
                "parameters": lambda b: f"{b.num_parameters:,}",
                "context": lambda b: b.context_length_tokens,
                "registered": lambda b: b.created_at,
                "description": lambda b: b.description,
            },
            as_json,
        )


@command(app, "show", "base show smollm2-135m-instruct", gives="`BaseModel`")
def show(
    context: typer.Context,
    base: Annotated[str, typer.Argument()],
    as_json: JsonOption = False,
) -> None:
    """Show a base: its digests, and the modules that adapters may target."""
    with connect(context) as client:
        found = client.bases.get(base)
    show_record(
        found,
        {
            "base": _short_name(found),
            "architecture": found.architecture,
            "parameters": f"{found.num_parameters:,}",
            "context": f"{found.context_length_tokens} tokens",
            "structural": found.digests.structural,
            "weights": found.digests.weights,
            "tokenizer": found.digests.tokenizer,
            "modules": len(found.modules),
            "description": found.description,
            "registered": found.created_at,
            "by": found.created_by,
        },
        as_json,
    )


def _short_name(base: BaseModel) -> str:
    return base.name.removeprefix("baseModels/")
