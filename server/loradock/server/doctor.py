"""What a server stands on, looked at: what its registry needs, its base, its cache, its release."""

from __future__ import annotations

import logging
import platform
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as release_of

from loradock.engine.protocol import BaseInfo
from loradock.registry.diagnosis import Finding, Level, disk_finding
from loradock.registry.errors import RegistryError
from loradock.registry.registry import Registry
from loradock.server.config import Config
from loradock.server.identity import digests_of
from loradock.server.threads import Threads

log = logging.getLogger(__name__)

_PACKAGES = ("grpcio", "protobuf", "sqlalchemy", "psycopg", "boto3", "torch", "transformers")


async def tell_store(registry: Registry, threads: Threads) -> None:
    """Find out what the store can do, once, and say so in the log."""
    try:
        can = await threads.run(registry.blobs.probe)
    except RegistryError as error:
        log.warning("the store could not be probed", extra={"facts": {"cause": str(error)}})
        return
    level = logging.INFO if can.conditional_put and can.multipart else logging.WARNING
    log.log(level, "store probed", extra={"facts": asdict(can)})


class Doctor:
    """Looks at one server. Its findings come in an order that people read them in."""

    def __init__(self, config: Config, registry: Registry, base: BaseInfo | None) -> None:
        self._config = config
        self._registry = registry
        self._base = base

    def findings(self) -> list[Finding]:
        """Look at everything; blocking, and best done on a thread."""
        return [
            self._releases(),
            *self._registry.diagnosis.findings(),
            *([] if self._base is None else self._inference(self._base)),
        ]

    def _releases(self) -> Finding:
        facts = {"loradock": release_of("loradock"), "python": platform.python_version()}
        for package in _PACKAGES:
            try:
                facts[package] = release_of(package)
            except PackageNotFoundError:
                continue
        roles = " and ".join(sorted(self._config.role_names))
        told = f"loradock {facts['loradock']} on Python {facts['python']}, serving {roles}"
        return Finding("server", Level.OK, told, facts)

    def _inference(self, base: BaseInfo) -> Iterator[Finding]:
        yield self._base_finding(base)
        folder, budget = self._config.cache_folder, self._config.cache_bytes
        used = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        told = f"{used / 2**20:.1f} of {budget / 2**20:.0f} MiB are used in {folder}"
        facts = {"used_bytes": str(used), "budget_bytes": str(budget), "folder": str(folder)}
        yield Finding("cache", Level.OK, told, facts)
        yield disk_finding("disk of the cache", folder)

    def _base_finding(self, base: BaseInfo) -> Finding:
        mine = digests_of(base.fingerprint)
        facts = {
            "structural": mine.structural,
            "weights": mine.weights,
            "tokenizer": mine.tokenizer,
            "profile": base.profile,
        }
        try:
            known = self._registry.bases.by_digests(mine)
        except RegistryError as error:
            return Finding("base", Level.WARN, f"{base.name} can't be looked up: {error}", facts)
        if known is None:
            told = f"{base.name} is not registered: nothing can be published for it"
            return Finding("base", Level.FAIL, told, facts)
        return Finding("base", Level.OK, f"{known.name}, as registered, as {base.profile}", facts)
