"""How commands of a server's host are declared, and how they refuse.

Their options are made of the settings, each with the setting's own help.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from loradock.cli.refusal import (
    CONFLICT,
    GENERIC,
    INTEGRITY,
    NOT_FOUND,
    PRECONDITION,
    UNAVAILABLE,
    USAGE,
    CommandError,
)
from loradock.registry import errors as registry
from loradock.server.config import Config
from loradock.server.errors import StartRefused

_EXIT_CODES: tuple[tuple[type[registry.RegistryError], int], ...] = (
    (registry.InvalidArgument, USAGE),
    (registry.NotFound, NOT_FOUND),
    (registry.AlreadyExists, CONFLICT),
    (registry.UnknownSchema, PRECONDITION),
    (registry.DigestMismatch, INTEGRITY),
    (registry.CatalogUnavailable, UNAVAILABLE),
    (registry.StoreUnavailable, UNAVAILABLE),
    (registry.DiskFull, UNAVAILABLE),
)


@contextmanager
def refusals(hint: str = "") -> Iterator[None]:
    """Tell what server and registry refuse as the CLI tells it."""
    try:
        yield
    except StartRefused as error:
        raise CommandError(str(error), hint) from error
    except registry.RegistryError as error:
        code = next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), GENERIC)
        raise CommandError(str(error), hint, code) from error


def draw_no_bars_off_a_terminal() -> None:
    """Keep libraries from it, which draw unasked as they read a base. Before they are imported."""
    if not sys.stderr.isatty():
        os.environ["TQDM_DISABLE"] = "1"


def check_there(config: Config) -> None:
    """Refuse an embedded catalog that is not there: to open it would be to make it."""
    if config.is_embedded and not (config.folder / "catalog.db").is_file():
        raise CommandError(
            f"there is no catalog in {config.folder}",
            "say where it is: --data-dir, or --database-url and --blob-url",
            NOT_FOUND,
        )


def options(names: set[str] | None = None) -> list[inspect.Parameter]:
    """Make an option of every setting, or of those that are named."""
    return [
        _option("config", Path, "A TOML file with settings.", None),
        *(
            _option(f.name, type(f.default), f.metadata["help"], f.default)
            for f in fields(Config)
            if names is None or f.name in names
        ),
    ]


def _option(name: str, kind: type, help: str, default: object) -> inspect.Parameter:
    shown = "" if default in (None, "", Path(), False) else f" [default: {default}]"
    kind = kind if kind in (bool, float) else str
    option: Any = Annotated[kind | None, typer.Option(help=help + shown, show_default=False)]
    return parameter(name, option, None)


def parameter(name: str, annotation: object, default: object) -> inspect.Parameter:
    """Make a parameter of a declared command."""
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=default, annotation=annotation)


def declare(function: Callable[..., None], help: str, parameters: list[inspect.Parameter]) -> None:
    """Give a command its help and its options."""
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    function.__annotations__ = {p.name: p.annotation for p in parameters}
    function.__doc__ = help
