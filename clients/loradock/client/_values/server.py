"""Running servers, and what they have resident."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime

from loradock.client._values.registry import BaseDigests, Split


class ResidencyState(enum.Enum):
    """How near a version is to the next step."""

    UNSPECIFIED = "unspecified"
    LOADING = "loading"
    RESIDENT = "resident"  # usable by the next step
    DRAINING = "draining"  # goes when its last lease ends
    FAILED = "failed"  # tried again at retry_time
    CACHED = "cached"  # on the server's disk, not in memory


@dataclass(frozen=True, slots=True)
class Residency:
    """One version on one server."""

    version_digest: str
    state: ResidencyState
    size_bytes: int
    num_leases: int  # requests that hold it now
    reason: str  # why it is where it is, if that is not as wanted
    # The rest is known of the server that answers only.
    adapter: str = ""
    version_number: int | None = None
    live_aliases: tuple[str, ...] = ()  # that it answers there
    pinned: bool = False
    num_hits: int = 0  # requests that held it so far
    last_use_time: datetime | None = None
    load_s: float = 0.0  # its latest load
    last_error: str = ""  # of its latest failed load, also if a later one did not fail
    retry_time: datetime | None = None
    num_output_tokens: int = 0  # of its answers so far


@dataclass(frozen=True, slots=True)
class Tier:
    """A place that holds versions within a budget of bytes."""

    used_bytes: int
    budget_bytes: int
    num_items: int  # versions in memory, or files on disk


@dataclass(frozen=True, slots=True)
class LiveAlias:
    """What a server answers an alias with; `reason` tells why live is not desired."""

    adapter: str
    alias: str
    live_digest: str
    desired_digest: str
    generation: int
    overridden: bool
    reason: str
    live_number: int | None = None
    desired_number: int | None = None  # None if it is not known there
    split: Split | None = None  # None while a candidate is not resident there


@dataclass(frozen=True, slots=True)
class Server:
    """A running process, as its heartbeat tells."""

    server_id: str
    address: str
    base_model: str
    base_digests: BaseDigests
    sequence: int  # the last change of the catalog that it has applied
    residencies: tuple[Residency, ...]
    divergences: tuple[str, ...]
    started_at: datetime | None
    seen_at: datetime | None
    drained: bool = False  # new requests are refused


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """The numbers that requests are refused by."""

    max_message_bytes: int
    max_chunk_bytes: int
    max_blob_bytes: int
    context_length_tokens: int
    max_running_rows: int


@dataclass(frozen=True, slots=True)
class EngineUse:
    """What an engine has done since it started, and what rows hold of its key/value memory."""

    num_steps: int
    num_step_tokens: int  # computed by them, of prompts and of answers
    num_blocks: int
    num_used_blocks: int
    num_cached_blocks: int  # kept for prompts that begin alike


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """The server that answers."""

    server: Server
    release: str
    engine_profile: str
    limits: ServerLimits
    live_aliases: tuple[LiveAlias, ...]
    num_running_rows: int
    num_waiting_rows: int
    degraded: tuple[str, ...]  # what is not as it should be; requests are answered all the same
    drained: bool  # new requests are refused
    memory: Tier
    disk: Tier
    engine_use: EngineUse
