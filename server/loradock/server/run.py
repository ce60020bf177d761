"""Runs a server as a process: ready line, signals, exit."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loradock.server.app import Server, start_server
from loradock.server.config import Config
from loradock.server.errors import StartRefused
from loradock.server.telemetry import spans
from loradock.server.telemetry.logs import set_up_logging
from loradock.server.threads import any_hangs

log = logging.getLogger(__name__)


def run(config: Config, ready_file: Path | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then drain."""
    set_up_logging(config.log_level)
    if config.traces_endpoint:
        spans.send_to(config.traces_endpoint)
    if ready_file is not None:
        _prepare(ready_file)
    asyncio.run(_serve(config, ready_file))
    if any_hangs():  # in a call that no answer comes to; the interpreter would wait for it
        logging.shutdown()
        sys.stdout.flush()
        os._exit(0)


async def _serve(config: Config, ready_file: Path | None) -> None:
    loop = asyncio.get_running_loop()
    with _ended_at_once():
        server = await start_server(config, _say)
    for sign in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sign, server.traffic.exit_asked.set)
    _spare_the_collector()
    if not server.traffic.ready.is_set():
        _say(f"bringing in what is pinned: {config.pin} …")
    if await server.traffic.is_ready_before_exit():
        _tell_ready(server, ready_file)
    await server.traffic.exit_asked.wait()
    await server.stop()


@contextmanager
def _ended_at_once() -> Iterator[None]:
    """Let an interrupt end the process as SIGTERM does: Python would wait for what loads a base."""
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _spare_the_collector() -> None:
    """Let it never go through what was imported and loaded: that stops all threads, for 0.3 s."""
    gc.collect()
    gc.freeze()


def _prepare(ready_file: Path) -> None:
    """Take away what a killed server left, or who waits for the file would take that for news."""
    if not ready_file.parent.is_dir():
        raise StartRefused(f"ready_file: there is no folder {ready_file.parent}")
    ready_file.unlink(missing_ok=True)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _tell_ready(server: Server, ready_file: Path | None) -> None:
    inference = server.inference
    name = "the registry" if inference is None else inference.identity.base.name
    if ready_file is not None:
        ready = {
            "address": server.address,
            "base": None if inference is None else name,
            "server_id": None if inference is None else inference.identity.server_id,
            "pid": os.getpid(),
            "metrics_address": server.metrics_page and server.metrics_page.address,
        }
        partial = ready_file.with_name(ready_file.name + ".partial")
        partial.write_text(json.dumps(ready))
        partial.replace(ready_file)
    print(f"loradock is serving {name} on {server.address}", flush=True)
