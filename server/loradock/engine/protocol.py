"""What a server asks of an engine: plain values in, plain values out.

Everything here is immutable and could cross a process border; nothing here imports torch. The
built-in engine (`loradock.engine.engine`) is the first to implement `Engine`.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

Facts = Mapping[str, object]  # what the engine's log lines say of a row
STEP_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The three digests by which a base is known, each `sha256:<hex>`."""

    structural: str
    weights: str
    tokenizer: str


@dataclass(frozen=True, slots=True)
class LinearShape:
    """A linear module of the base that an adapter may target."""

    in_features: int
    out_features: int


@dataclass(frozen=True, slots=True)
class BaseInfo:
    """The base an engine keeps resident."""

    name: str
    fingerprint: Fingerprint
    architecture: str  # "LlamaForCausalLM"
    modules: Mapping[str, LinearShape]  # "model.layers.0.self_attn.q_proj" -> its shape
    context_length: int  # tokens, prompt and output together
    vocab_size: int
    num_parameters: int
    profile: str  # how this engine runs it: "cpu/float32"


@dataclass(frozen=True, slots=True)
class LoraModule:
    """One module's share of an adapter: `y += scaling * (x @ A.T) @ B.T`."""

    module: str  # a key of BaseInfo.modules
    rank: int
    scaling: float
    a_key: str  # tensor [rank, in_features]
    b_key: str  # tensor [out_features, rank]


@dataclass(frozen=True, slots=True)
class AdapterSource:
    """A version's weights on this host, already verified and admitted."""

    digest: str  # of the version; the key of slots and caches
    weights: Path  # a safetensors file that nobody rewrites
    modules: Sequence[LoraModule]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a row's next tokens are drawn. `temperature` 0 is greedy."""

    max_tokens: int
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    logprobs: bool = False  # of the sampled tokens, under the unmodified distribution
    ignore_eos: bool = False


class Priority(enum.IntEnum):
    """Who goes first. Whoever waits long enough counts as higher, so that nobody starves."""

    HIGH = 0  # somebody waits for it
    NORMAL = 1
    LOW = 2  # batches, and traffic whose answers nobody waits for


@dataclass(frozen=True, slots=True)
class Generate:
    """Continue a prompt. `deadline` is on the clock of `time.monotonic`."""

    row: str  # unique among running rows
    prompt: tuple[int, ...]
    sampling: Sampling
    adapter: str | None = None  # a resident version's digest; None asks for the base
    salt: str = ""  # the tenant's: blocks are shared within one salt only, time fairly among all
    deadline: float | None = None
    priority: Priority = Priority.NORMAL
    facts: Facts = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Score:
    """Log-likelihoods of continuations of one prompt, in one pass over their trie."""

    row: str
    prompt: tuple[int, ...]
    continuations: tuple[tuple[int, ...], ...]
    adapter: str | None = None
    salt: str = ""
    deadline: float | None = None
    priority: Priority = Priority.NORMAL
    facts: Facts = field(default_factory=dict)


Work = Generate | Score


class Finish(enum.Enum):
    """Why a row ended."""

    STOP = "stop"  # end-of-sequence token, or a stop string
    LENGTH = "length"  # max_tokens
    SCORED = "scored"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    FAILED = "failed"


class Failure(enum.Enum):
    """Why a row failed. Others go on, but for `ENGINE`."""

    NOT_FINITE = "not_finite"  # the model's output is no number: a broken adapter, or base
    COMPUTE = "compute"  # computing the row, or drawing its token, raised
    MEMORY = "memory"  # there was no memory to compute even one token of the row
    ENGINE = "engine"  # the engine as a whole can't go on


@dataclass(frozen=True, slots=True)
class RowEvent:
    """What one step did for one row: the first tells that it runs, or that it never will.

    `finish` is set on a row's last event and only there.
    """

    row: str
    tokens: tuple[int, ...] = ()  # the end-of-sequence token is not among them
    logprobs: tuple[float, ...] = ()  # beside `tokens`, if asked for
    scores: tuple[tuple[float, ...], ...] = ()  # Score: per continuation, per token
    cached_tokens: int | None = None  # on the first event: prompt tokens found in the prefix cache
    queued_s: float | None = None  # on the first event: from its submission to its admission
    finish: Finish | None = None
    failure: Failure | None = None  # with FAILED


@dataclass(frozen=True, slots=True)
class ResidentAdapter:
    """A version that the next step can use."""

    digest: str
    num_modules: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class StepTimes:
    """How many steps took at most each of STEP_BOUNDS_S, or longer than all; and all together."""

    counts: tuple[int, ...] = (0,) * (len(STEP_BOUNDS_S) + 1)
    total_s: float = 0.0


@dataclass(frozen=True, slots=True)
class EngineState:
    """A snapshot for status pages and for the integrity check."""

    num_running: int
    num_waiting: int
    num_blocks: int
    num_free_blocks: int
    num_cached_blocks: int  # held by the prefix cache alone
    num_memory_tokens: int  # that all blocks together hold
    num_steps: int
    num_step_tokens: int = 0  # computed by all steps, of prompts and of answers
    num_preemptions: int = 0  # times that a row was put back for want of memory
    step_times: StepTimes = StepTimes()
    failure: str | None = None  # why the engine stopped, if it can't go on
    resident: Mapping[str, ResidentAdapter] = field(default_factory=dict)


EventSink = Callable[[Sequence[RowEvent]], None]


class Engine(Protocol):
    """One resident base. Every method may be called from any thread unless it says otherwise."""

    @property
    def base(self) -> BaseInfo: ...

    def start(self, sink: EventSink) -> None:
        """Start the step thread. `sink` is called on it, once a step, with that step's events.

        And once more when the engine has stopped, with the events of whom that ends, if any.
        """

    def close(self) -> None:
        """Stop after the current step; rows still there end as CANCELLED. Idempotent."""

    def size_of(self, modules: Sequence[LoraModule]) -> int:
        """Say how many bytes an adapter of these modules will take once it is resident."""

    def make_resident(self, source: AdapterSource) -> ResidentAdapter:
        """Read and arrange an adapter's weights, then publish them in one assignment.

        Blocks its caller, never the step thread. Idempotent for one digest. Raises `AdapterError`
        if the tensors do not fit the base.
        """

    def release(self, digest: str) -> None:
        """Forget a resident adapter. Its caller has made sure that no row uses it. Idempotent."""

    def submit(self, work: Work) -> None:
        """Queue a row.

        Raises `BadWork`, `TooLong` if it could never fit, `NotResident`, or `EngineStopped`.
        """

    def cancel(self, row: str) -> None:
        """Take a row out within one step. Unknown rows are ignored: they have just ended."""

    def state(self) -> EngineState: ...
