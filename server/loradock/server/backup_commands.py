"""`loradock backup` and `loradock restore`, on a host that reaches catalog and blobs themselves."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated

import typer

from loradock.cli.output import note, print_json, size_text
from loradock.cli.progress import count_progress
from loradock.cli.refusal import INTEGRITY, NOT_FOUND, CommandError
from loradock.server.config import Config, load_config
from loradock.server.host_commands import check_there, declare, options, parameter, refusals

BACKUP_HELP = """\b
Example:
  $ loradock backup /mnt/backup
  $ loradock backup /mnt/backup --verify
  $ loradock backup /mnt/backup --database-url postgresql://… --blob-url s3://…

Save the catalog as it is at one moment, and every blob that it speaks of, hashed on its way.
Servers go on meanwhile. A folder takes the backups of one catalog only. It keeps the catalog of
each, and each blob once: a later backup copies only what is new; with --verify it also reads what
the folder holds already, and mends what is damaged. Exit code 7 if bytes that versions need can't
be read; the rest is saved.
"""
RESTORE_HELP = """\b
Example:
  $ loradock restore /mnt/backup
  $ loradock restore /mnt/backup --database-url postgresql://… --blob-url s3://…

Bring the latest backup of a folder (or the one of --catalog) back, into a database that is empty
and a store that need not be: to the same digests, numbers, aliases, evaluations and audit log. The
engine and the store may be others than those that were saved. Stop servers first; broken off, do it
again. Exit code 7 if the backup lacks bytes: pushing them again mends that.
"""


def backup(folder: Path, verify: bool = False, as_json: bool = False, **flags: object) -> None:
    """Save. Its help and options are declared below."""
    from loradock.registry.backup.backup import back_up
    from loradock.registry.catalog.database import Database
    from loradock.registry.stores import open_store

    config = _config(flags)
    check_there(config)
    with refusals("see `loradock backup --help`"), count_progress("blobs") as show:
        database, store = Database(config.catalog_url), open_store(config.blobs_url)
        try:
            done = back_up(database, store, folder, show, verify=verify)
        finally:
            database.close()
            store.close()
    if as_json:
        print_json(done)
    note(
        f"{done.catalog} has {done.num_rows} rows; {done.num_copied} of {done.num_blobs} blobs "
        f"({size_text(done.size_bytes)} in all) were new"
    )
    if done.num_mended:
        note(f"{done.num_mended} of these the folder held damaged: look after its disk")
    if done.damaged:
        raise CommandError(
            f"{len(done.damaged)} blobs that versions need could not be read",
            "`loradock verify` tells whose they are; pushing those again mends them",
            INTEGRITY,
        )


def restore(
    folder: Path, catalog: Path | None = None, as_json: bool = False, **flags: object
) -> None:
    """Bring back. Its help and options are declared below."""
    from loradock.registry.backup.restore import restore as bring_back
    from loradock.registry.catalog.database import Database
    from loradock.registry.stores import open_store

    config = _config(flags)
    catalog = None if catalog is None else _found(catalog, folder)
    with refusals("see `loradock restore --help`"), count_progress("blobs") as show:
        database, store = Database(config.catalog_url), open_store(config.blobs_url)
        try:
            done = bring_back(database, store, folder, catalog, show)
        finally:
            database.close()
            store.close()
    if as_json:
        print_json(done)
    note(f"{done.num_rows} rows and {done.num_blobs} blobs are as they were at {done.made_at}")
    if done.damaged:
        raise CommandError(
            f"{len(done.damaged)} blobs are missing from the backup, or damaged in it",
            "`loradock verify` tells whose they are; pushing those again mends them",
            INTEGRITY,
        )


def _config(flags: dict[str, object]) -> Config:
    with refusals():
        return load_config({**flags, "roles": "registry"})


def _found(catalog: Path, folder: Path) -> Path:
    """Find one of a backup's catalogs: by its path, or by its name in the folder."""
    for path in (catalog, folder / catalog):
        if path.is_file():
            return path
    there = f"see what is in {folder}; without --catalog the latest is taken"
    raise CommandError(f"there is no catalog {catalog}", there, NOT_FOUND)


_FOLDER = parameter(
    "folder",
    Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the backups are.")],
    inspect.Parameter.empty,
)
_CATALOG = parameter(
    "catalog",
    Annotated[Path | None, typer.Option(help="One of its catalogs; by default the latest.")],
    None,
)
_VERIFY = parameter(
    "verify",
    Annotated[bool, typer.Option("--verify", help="Hash what the folder holds already, too.")],
    False,
)
_JSON = parameter(
    "as_json",
    Annotated[bool, typer.Option("--json", help="Give JSON, as docs/cli.md describes.")],
    False,
)
_PLACE = options({"database_url", "blob_url", "data_dir"})

declare(backup, BACKUP_HELP, [_FOLDER, _VERIFY, _JSON, *_PLACE])
declare(restore, RESTORE_HELP, [_FOLDER, _CATALOG, _JSON, *_PLACE])
