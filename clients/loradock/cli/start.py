"""What the `loradock` script runs: the CLI, or the word that it isn't installed."""

from __future__ import annotations

import sys

EXTRA = ("typer", "rich", "click")


def main() -> None:
    """Run the CLI; without its extra, say how to install it."""
    try:
        from loradock.cli.main import main as run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in EXTRA:
            raise
        sys.exit("error: the CLI is not installed, only the SDK\n  pip install 'loradock[cli]'")
    except KeyboardInterrupt:  # as the CLI itself says it, once it is there
        sys.exit(130)
    run()
