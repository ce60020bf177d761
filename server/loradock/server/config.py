"""The server's settings: one flat frozen value, read once. The only place that reads environment.

A flag goes before the environment (`LORADOCK_PORT`), that before the TOML file, that before the
default. A name that no setting has is an error.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar, cast

from loradock.registry.errors import InvalidName
from loradock.registry.names import Reference, check_name, parse_reference
from loradock.server.errors import StartRefused

T = TypeVar("T")

PREFIX = "LORADOCK_"
DTYPES = ("auto", "float32", "bfloat16", "int8")
LOG_LEVELS = ("debug", "info", "warning", "error")
OF_THE_CLI = {"config", "address", "timeout", "json", "tls", "ca_file"}  # read elsewhere
_UNITS = {"": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}


def setting(default: T, help: str, *, is_secret: bool = False) -> T:
    """Declare a setting with the text that `--help` and the docs show."""
    declared: Any = field(default=default, metadata={"help": help}, repr=not is_secret)
    return cast(T, declared)


@dataclass(frozen=True, slots=True)
class Config:
    """All settings of one server process. Sizes take KiB, MiB or GiB behind the number."""

    model: str = setting("", "The base model: a hub id, a folder or a GGUF file.")
    model_name: str = setting("", "The base's name in the registry; by default made of --model.")
    device: str = setting("cpu", "Where the base runs: cpu, or cuda.")
    dtype: str = setting(
        "auto", "The precision that the base runs in: auto, float32, bfloat16, int8."
    )
    threads: int = setting(0, "Threads of the model's arithmetic; 0 leaves it to torch.")
    host: str = setting("127.0.0.1", "The address to listen on.")
    port: int = setting(7431, "The port to listen on; 0 takes a free one.")
    roles: str = setting("registry,inference", "What this process serves: registry, inference.")
    data_dir: Path = setting(
        Path(),
        "Where the embedded catalog, blobs and the cache live; by default ~/.local/share/loradock.",
    )
    database_url: str = setting(
        "", "The catalog; by default a SQLite file in data_dir.", is_secret=True
    )
    blob_url: str = setting(
        "", "The blobs: s3://bucket/prefix?…; by default a folder in data_dir.", is_secret=True
    )
    cache_dir: Path = setting(Path(), "Where fetched weights are kept; by default in data_dir.")
    cache_bytes: int = setting(10 << 30, "Bytes that cache_dir may take.")
    max_downloads: int = setting(8, "Weights that are fetched side by side.")
    project: str = setting("default", "The project of callers without further identity.")
    token: str = setting("", "The token that callers must send.", is_secret=True)
    token_file: Path = setting(Path(), "A file that holds the token.")
    callers_file: Path = setting(Path(), "A file of callers: who they are, and what they may do.")
    insecure: bool = setting(False, "Listen in plain text, open to all, beyond this host.")
    follow_interval_s: float = setting(0.5, "How often the catalog is asked for changes.")
    heartbeat_interval_s: float = setting(5.0, "How often this server tells the catalog of itself.")
    rollback_window_s: float = setting(600.0, "How long a version stays resident after a move.")
    max_adapter_bytes: int = setting(2 << 30, "Bytes of host memory for resident adapters.")
    pin: str = setting(
        "",
        "References that stay resident, with commas between; health waits for them.",
    )
    max_running_rows: int = setting(16, "Sequences in the running batch.")
    max_queue: int = setting(512, "Requests that may wait for a place in the batch.")
    max_requests_per_project: int = setting(
        0, "Requests of one project that may be inside; 0 leaves other projects a quarter."
    )
    kv_tokens: int = setting(0, "Tokens of key/value memory; 0 lets the engine choose.")
    step_tokens: int = setting(0, "Tokens of one step's batch; 0 lets the engine choose.")
    prefill_tokens: int = setting(
        0, "Prompt tokens of a step in which others answer; 0 lets the engine choose."
    )
    default_max_tokens: int = setting(256, "max_tokens where neither request nor profile says.")
    stream_buffer_tokens: int = setting(1024, "Tokens that may wait for a stream's reader.")
    drain_grace_s: float = setting(30.0, "How long running requests may take after SIGTERM.")
    max_deadline_s: float = setting(600.0, "The longest that any call may take.")
    max_message_bytes: int = setting(4 << 20, "The largest message in either direction.")
    max_text_bytes: int = setting(
        1 << 20, "The largest prompt, or set of continuations, in bytes of UTF-8."
    )
    reflection: bool = setting(True, "Whether clients may ask for the wire's description.")
    log_level: str = setting("info", "debug, info, warning or error.")
    metrics_address: str = setting(
        "", "Where Prometheus reads the metrics, as host:port; none are shown by default."
    )
    metrics_insecure: bool = setting(False, "Show the metrics, open to all, beyond this host.")
    metrics_versions: int = setting(
        100, "Versions with metrics of their own; the others share one line."
    )
    traces_endpoint: str = setting(
        "", "Where spans go by OTLP over gRPC, as http://host:port; none are sent by default."
    )

    def __post_init__(self) -> None:
        problems = [*_unknown_roles(self.role_names), *_out_of_range(self), *_misnamed(self)]
        if self.has_role("inference") and not self.model:
            problems.append("model: name the base model to serve (--model)")
        if problems:
            raise StartRefused("; ".join(problems))

    @property
    def role_names(self) -> frozenset[str]:
        """What this process serves."""
        return frozenset(role.strip() for role in self.roles.split(",") if role.strip())

    def has_role(self, role: str) -> bool:
        """Whether this process serves a part."""
        return role in self.role_names

    @property
    def folder(self) -> Path:
        """The data folder."""
        return self.data_dir if self.data_dir != Path() else _user_data_dir()

    @property
    def is_embedded(self) -> bool:
        """Whether the catalog is this process's own."""
        return not self.database_url

    @property
    def catalog_url(self) -> str:
        """Where the catalog is."""
        return self.database_url or f"sqlite:///{self.folder.absolute() / 'catalog.db'}"

    @property
    def blobs_url(self) -> str:
        """Where the blobs are."""
        return self.blob_url or f"file://{self.folder.absolute() / 'blobs'}"

    @property
    def cache_folder(self) -> Path:
        """Where fetched weights are kept."""
        return self.cache_dir if self.cache_dir != Path() else self.folder / "cache"

    @property
    def spool_folder(self) -> Path:
        """Where uploads wait on their way to S3."""
        return self.folder / "uploads"

    @property
    def base_name(self) -> str:
        """The base's name in the registry."""
        return self.model_name or _name_of(Path(self.model).name.removesuffix(".gguf"))

    @property
    def pinned_references(self) -> tuple[Reference, ...]:
        """What stays resident."""
        return tuple(parse_reference(pin.strip()) for pin in self.pin.split(",") if pin.strip())

    def make_folders(self) -> None:
        """Make the folders that are written to; refuse one that can't be by its setting's name."""
        folders = {"data_dir": self.folder}
        if self.has_role("inference"):
            folders["cache_dir"] = self.cache_folder
        for name, folder in folders.items():
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StartRefused(f"{name}: {folder} can't be made: {error.strerror}") from error
            if not os.access(folder, os.W_OK | os.X_OK):
                raise StartRefused(f"{name}: {folder} can't be written to")

    def read_token(self) -> str | None:
        """Give the token; None lets everybody in."""
        if self.token_file == Path():
            return self.token or None
        try:
            token = self.token_file.read_text().strip()
        except (OSError, ValueError) as error:
            raise StartRefused(f"token_file: {error}") from error
        if not token:
            raise StartRefused(f"token_file: {self.token_file} is empty")
        return token

    def refuse_open_door(self) -> None:
        """Refuse to listen beyond this host to anybody who comes."""
        if is_loopback(self.host) or self.insecure or self.callers_file != Path():
            return
        if self.read_token() is None:
            raise StartRefused(
                f"{self.host} can be reached from other hosts: give a token that callers must know "
                "(--token-file, or LORADOCK_TOKEN), or --callers-file, or --insecure to let "
                "everybody in"
            )


def load_config(
    flags: Mapping[str, object], environment: Mapping[str, str] | None = None
) -> Config:
    """Read the settings from flags (None: not given), environment and file."""
    environment = os.environ if environment is None else environment
    known = {f.name: f for f in fields(Config)}
    given: dict[str, object] = {}
    file = flags.get("config") or environment.get(f"{PREFIX}CONFIG")
    if file:
        given |= _checked(_from_file(Path(str(file))), known, str(file))
    named = {k.removeprefix(PREFIX).lower(): v for k, v in environment.items() if _is_ours(k)}
    given |= _checked(named, known, "the environment")
    given |= {k: v for k, v in flags.items() if v is not None and k != "config"}
    settings: dict[str, Any] = {name: _read(known[name], v) for name, v in given.items()}
    return Config(**settings)


def is_loopback(host: str) -> bool:
    """Whether an address stays on this host."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _is_ours(name: str) -> bool:
    return name.startswith(PREFIX) and name.removeprefix(PREFIX).lower() not in OF_THE_CLI


def _from_file(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise StartRefused(f"config: {path}: {error.strerror}") from error
    except ValueError as error:
        raise StartRefused(f"{path}: {error}") from error


def _checked(
    given: Mapping[str, object], known: Mapping[str, Field[Any]], source: str
) -> Mapping[str, object]:
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3)
            hint = f"; is it {' or '.join(near)}?" if near else ""
            raise StartRefused(f"{source}: there is no setting {name!r}{hint}")
    return given


def _read(setting: Field[Any], value: object) -> object:
    default = setting.default
    assert default is not MISSING
    try:
        return _READERS[type(default)](value)
    except (ValueError, KeyError) as error:
        raise StartRefused(f"{setting.name}: {value!r} is no {_KINDS[type(default)]}") from error


def _read_bool(value: object) -> bool:
    if isinstance(value, bool):
        return value
    return {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}[
        str(value).lower()
    ]


def _read_int(value: object) -> int:
    match = re.fullmatch(r"(-?\d+)\s*([a-z]*)", str(value).strip().lower())
    if match is None:
        raise ValueError(value)
    return int(match[1]) * _UNITS[match[2]]


def _read_text(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


_READERS: dict[type, Any] = {
    bool: _read_bool,
    int: _read_int,
    float: lambda value: float(str(value)),
    str: _read_text,
    type(Path()): lambda value: Path(str(value)).expanduser(),
}
_KINDS = {bool: "yes or no", int: "whole number", float: "number", str: "text"}
_KINDS |= {type(Path()): "path"}


def _unknown_roles(roles: frozenset[str]) -> list[str]:
    unknown = sorted(roles - {"registry", "inference"})
    if not roles or unknown:
        return [f"roles: say registry, inference or both, not {', '.join(unknown) or 'none'}"]
    return []


def _name_of(text: str) -> str:
    """Make a name of what may be none; empty if there is nothing to make it of."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:63].rstrip("-")


def _misnamed(config: Config) -> list[str]:
    if config.model_name:
        try:
            check_name("base", config.model_name)
        except InvalidName as error:
            near = _name_of(config.model_name)
            return [f"model_name: {error}" + (f"; {near!r} is one" if near else "")]
    elif config.model and config.has_role("inference") and not config.base_name:
        return [f"model: {config.model!r} gives the base no name; give one (--model-name)"]
    return []


def _out_of_range(config: Config) -> list[str]:
    at_least_one = (
        "max_downloads",
        "max_running_rows",
        "max_message_bytes",
        "max_text_bytes",
        "default_max_tokens",
        "stream_buffer_tokens",
    )
    at_least_zero = (
        *("threads", "cache_bytes", "max_adapter_bytes"),
        *("max_queue", "kv_tokens", "step_tokens", "metrics_versions"),
    )
    positive = ("follow_interval_s", "heartbeat_interval_s", "max_deadline_s")
    not_negative = ("rollback_window_s", "drain_grace_s")
    problems = [f"{n}: must be at least 1" for n in at_least_one if getattr(config, n) < 1]
    problems += [f"{n}: must be at least 0" for n in at_least_zero if getattr(config, n) < 0]
    problems += [f"{n}: must be more than 0" for n in positive if not getattr(config, n) > 0]
    problems += [f"{n}: must not be negative" for n in not_negative if not getattr(config, n) >= 0]
    if config.dtype not in DTYPES:
        problems.append(f"dtype: {config.dtype!r} is none of {', '.join(DTYPES)}")
    if not re.fullmatch(r"(cpu|cuda)(:\d+)?", config.device):
        problems.append(f"device: {config.device!r} is neither cpu nor cuda")
    if config.log_level.lower() not in LOG_LEVELS:
        problems.append(f"log_level: say {', '.join(LOG_LEVELS)}")
    if config.token and config.token_file != Path():
        problems.append("token: is given beside token_file; give one")
    problems += _metrics_problems(config)
    if not 0 <= config.port <= 65535:
        problems.append("port: must be in 0..65535")
    problems += _unreadable_pins(config)
    return problems


def _metrics_problems(config: Config) -> list[str]:
    host, colon, port = config.metrics_address.rpartition(":")
    if not config.metrics_address:
        return []
    if not (colon and host and port.isdecimal() and int(port) <= 65535):
        return [f"metrics_address: {config.metrics_address!r} is not host:port"]
    if not is_loopback(host) and not config.metrics_insecure:
        return [
            f"metrics_address: {host} can be reached from other hosts, and whoever reaches it "
            "reads the names of adapters: give --metrics-insecure if that is meant"
        ]
    return []


def _unreadable_pins(config: Config) -> list[str]:
    try:
        references = config.pinned_references
    except InvalidName as error:
        return [f"pin: {error}"]
    if references and not config.has_role("inference"):
        return ["pin: this process has no memory for adapters; it needs the role inference"]
    return []


def _user_data_dir() -> Path:
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "loradock"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "loradock"
