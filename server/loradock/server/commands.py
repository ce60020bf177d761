"""What this package adds to the CLI: `serve`, `migrate` and `base register`.

Imports of weight stand inside the functions, so that `--help` is quick.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated

import typer

from loradock.cli import base as cli_base
from loradock.cli.command import JsonOption, command
from loradock.cli.output import note, show_record
from loradock.cli.session import connect
from loradock.server.config import load_config
from loradock.server.host_commands import (
    check_there,
    declare,
    draw_no_bars_off_a_terminal,
    options,
    refusals,
)
from loradock.server.loading import describe

base = cli_base.app  # the CLI's own commands on bases, and `register`

SERVE_HELP = """\b
Example:
  $ loradock serve --model ./my-base --model-name my-base
  $ loradock serve --model ./my-base --database-url postgresql://… --blob-url s3://… \\
      --host 0.0.0.0 --token-file token

Keep a base resident and answer through its adapters. Every option can also stand in the
environment (LORADOCK_PORT) or in a TOML file (--config). Without --database-url everything is kept
in --data-dir.
"""
MIGRATE_HELP = """\b
Example:
  $ loradock migrate --database-url postgresql://…
  $ loradock migrate --data-dir /var/lib/loradock

Bring the catalog's schema to this release's, beside running servers. An empty database becomes a
new catalog, and it is said so; a data folder without a catalog is refused, for `loradock serve`
makes one by itself.
"""


def serve(ready_file: Path | None = None, **flags: object) -> None:
    """Serve until told to stop. Its help and options are declared below."""
    from loradock.server.run import run

    draw_no_bars_off_a_terminal()
    with refusals("see `loradock serve --help`"):
        run(load_config(flags), ready_file)


def migrate(**flags: object) -> None:
    """Bring the schema up. Its help and options are declared below."""
    from loradock.registry.catalog.database import Database
    from loradock.registry.catalog.schema import known_schema, upgrade

    with refusals("see `loradock migrate --help`"):
        config = load_config({**flags, "roles": "registry"})
        check_there(config)
        database = Database(config.catalog_url)
        try:
            before = upgrade(database)
        finally:
            database.close()
    told = f"The catalog's schema is this release's, {known_schema()}"
    if before is None:
        typer.echo(f"{told}. The database was empty: this catalog is new.")
    elif before != known_schema():
        typer.echo(f"{told}; it was {before}.")
    else:
        typer.echo(f"{told}, and was so before.")


@command(
    base,
    "register",
    "base register ./my-base --name my-base",
    gives="`BaseModel`",
)
def register(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="A hub id, a folder or a GGUF file.")],
    name: Annotated[str, typer.Option(help="The base's name in the registry.")],
    description: Annotated[str, typer.Option()] = "",
    as_json: JsonOption = False,
) -> None:
    """Record a base, known by the digests of what is at MODEL."""
    from loradock.client import BaseDigests, ModuleShape

    note(f"reading {model} …")
    draw_no_bars_off_a_terminal()
    with refusals():
        found = describe(model, name)
    fingerprint = found.fingerprint
    with connect(context) as client:
        registered = client.bases.register(
            name,
            digests=BaseDigests(fingerprint.structural, fingerprint.weights, fingerprint.tokenizer),
            architecture=found.architecture,
            modules={
                path: ModuleShape(shape.in_features, shape.out_features)
                for path, shape in found.modules.items()
            },
            context_length_tokens=found.context_length,
            num_parameters=found.num_parameters,
            description=description,
        )
    note("registered" if registered.created else "nothing changed: it was registered before")
    show_record(
        registered.base_model,
        {
            "base": name,
            "architecture": registered.base_model.architecture,
            "weights": registered.base_model.digests.weights,
        },
        as_json,
    )


_READY_FILE = inspect.Parameter(
    "ready_file",
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[
        Path | None, typer.Option(help="Write the address here, as JSON, once ready.")
    ],
)
declare(serve, SERVE_HELP, [*options(), _READY_FILE])
declare(
    migrate,
    MIGRATE_HELP,
    options({"database_url", "blob_url", "data_dir"}),
)
