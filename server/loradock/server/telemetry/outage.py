"""Whether something that this server leans on answers, and since when it does not."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

log = logging.getLogger(__name__)


class Outage:
    """What is known of one service. Set from any thread, as calls to it end."""

    def __init__(self, what: str) -> None:
        """Name the service as sentences do: "the catalog"."""
        self._what = what
        self._why = ""
        self.since: datetime | None = None

    def __str__(self) -> str:
        since = "" if self.since is None else f" since {self.since:%Y-%m-%d %H:%M:%S} UTC"
        return f"{self._what} does not answer{since}: {self._why}"

    @property
    def goes_on(self) -> bool:
        """Whether it does not answer now."""
        return self.since is not None

    def begin(self, why: str) -> None:
        """Note that it did not answer."""
        self._why = why.removeprefix(f"{self._what} does not answer: ")
        if self.since is None:
            self.since = datetime.now(UTC)
            log.warning("%s does not answer: %s", self._what, self._why)

    def end(self) -> None:
        """Note that it answered."""
        if self.since is not None:
            self.since = None
            log.info("%s answers again", self._what)

    @contextmanager
    def watching(self, kind: type[Exception]) -> Iterator[None]:
        """Take an error of this kind for an outage, and anything else for an answer.

        What this host's own system refuses (OSError) tells nothing of the service.
        """
        try:
            yield
        except OSError:
            raise
        except kind as error:
            self.begin(str(error))
            raise
        except Exception:
            self.end()
            raise
        self.end()
