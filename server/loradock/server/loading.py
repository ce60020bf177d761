"""Where the server gets its engine from. What needs torch is imported when it is asked for."""

from __future__ import annotations

from pathlib import Path

from loradock.engine.errors import BaseError
from loradock.engine.protocol import BaseInfo, Engine
from loradock.engine.text import Tokenizer
from loradock.server.config import Config
from loradock.server.errors import StartRefused


def find(config: Config) -> Path:
    """Say where the base is, fetched if it is the hub's. Raises `StartRefused`."""
    from loradock.engine.stored import find_base

    try:
        return find_base(config.model)
    except BaseError as error:
        raise StartRefused(str(error)) from error


def load(config: Config, path: Path) -> tuple[Engine, Tokenizer]:
    """Load the base and its tokenizer, and set the engine up. Raises `StartRefused`."""
    from loradock.engine.engine import BuiltinEngine
    from loradock.engine.loading import load_base

    try:
        tokenizer = Tokenizer.load(path)
        base = load_base(path, config.base_name, device=config.device, dtype=config.dtype)
    except BaseError as error:
        raise StartRefused(str(error)) from error
    engine = BuiltinEngine(
        base,
        max_rows=config.max_running_rows,
        kv_tokens=config.kv_tokens,
        step_tokens=config.step_tokens,
        prefill_tokens=config.prefill_tokens,
        threads=config.threads,
    )
    return engine, tokenizer


def describe(model: str, name: str) -> BaseInfo:
    """Say what a base is, without loading its weights. Raises `StartRefused`."""
    from loradock.engine.loading import describe_base

    try:
        return describe_base(model, name)
    except BaseError as error:
        raise StartRefused(str(error)) from error
