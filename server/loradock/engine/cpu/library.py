"""Builds `kernels.c` once per machine, keeps the result, and declares it to Python.

Where there is no C compiler, or what it makes can't be loaded, `load_kernels` says why and the
engine runs without: nothing here is needed, it is only faster.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import weakref
from ctypes import POINTER, Structure, c_float, c_int32, c_int64, c_void_p
from pathlib import Path

SOURCE = Path(__file__).with_name("kernels.c")
INCLUDED = Path(__file__).with_name("team.h")
FLAGS = (
    *("-std=gnu11", "-O3", "-march=native", "-shared", "-fPIC", "-pthread"),
    *("-fno-strict-aliasing", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"),
)
BUILD_TIMEOUT_S = 300


class NoKernels(Exception):
    """The kernels can't be had here; the message says why."""


class Matrix(Structure):
    """`Matrix` of kernels.c."""

    _fields_ = [
        ("data", c_void_p),
        ("scales", c_void_p),
        ("sums", c_void_p),
        ("bias", c_void_p),
        ("outputs", c_int32),
        ("inputs", c_int32),
        ("kind", c_int32),
    ]


class Update(Structure):
    """`Update` of kernels.c."""

    _fields_ = [
        ("shrink", Matrix),
        ("expand", Matrix * 3),
        ("rank_start", c_int32 * 3),
        ("output_start", c_int32 * 3),
        ("num_parts", c_int32),
    ]


class Segment(Structure):
    """`Segment` of kernels.c."""

    _fields_ = [("updates", c_void_p), ("start", c_int32), ("end", c_int32)]


class Layer(Structure):
    """`Layer` of kernels.c."""

    _fields_ = [
        ("attention_norm", c_void_p),
        ("mlp_norm", c_void_p),
        ("query_norm", c_void_p),
        ("key_norm", c_void_p),
        ("qkv", Matrix),
        ("out", Matrix),
        ("gate_up", Matrix),
        ("down", Matrix),
        ("keys", c_void_p),
        ("values", c_void_p),
    ]


class Shape(Structure):
    """`Shape` of kernels.c."""

    _fields_ = [
        ("hidden", c_int32),
        ("heads", c_int32),
        ("key_heads", c_int32),
        ("dim", c_int32),
        ("rotary_dim", c_int32),
        ("intermediate", c_int32),
        ("kind", c_int32),
        ("norm_epsilon", c_float),
        ("scaling", c_float),
    ]


class Operand(Structure):
    """`Operand` of kernels.c."""

    _fields_ = [("packed", c_void_p), ("beside", c_void_p), ("scales", c_void_p)]


class Step(Structure):
    """`Step` of kernels.c."""

    _fields_ = [
        ("num_tokens", c_int32),
        ("num_segments", c_int32),
        ("max_blocks", c_int32),
        ("cosines", c_void_p),
        ("sines", c_void_p),
        ("position", c_void_p),
        ("table", c_void_p),
        ("row", c_void_p),
        ("place", c_void_p),
        ("seen", c_void_p),
        ("seen_from", c_void_p),
        ("segments", c_void_p),
        ("hidden", c_void_p),
        ("wide", c_void_p),
        ("narrow", c_void_p),
        ("max_rank", c_int32),
        ("wide_stride", c_int32),
        ("shared", Operand),
        ("own", Operand),
        ("own_tokens", c_int32),
        ("is_decoding", c_int32),
        ("narrow_packed", c_void_p),
        ("scores", c_void_p),
        ("max_places", c_int32),
        ("multiply_adds", c_int64),
        ("weight_bytes", c_int64),
    ]


class Team:
    """Threads that go through steps together. One caller at a time; they end with the object."""

    def __init__(self, kernels: ctypes.CDLL, threads: int) -> None:
        """Start them; where the system gives fewer, go on with those."""
        self.address: int | None = kernels.loradock_team_new(threads)
        if self.address is None:
            raise MemoryError("no memory for a team of threads")
        self.threads: int = kernels.loradock_team_threads(self.address)
        weakref.finalize(self, kernels.loradock_team_free, self.address)


@functools.cache
def load_kernels() -> ctypes.CDLL:
    """Give the kernels, built if need be. Raises `NoKernels`."""
    library = build_kernels(_cache_folder())
    try:
        kernels = ctypes.CDLL(str(library))
    except OSError as error:
        raise NoKernels(f"what the compiler made can't be loaded: {error}") from error
    kernels.loradock_layers.argtypes = [
        *(c_void_p, POINTER(Layer), c_int32, POINTER(Shape), POINTER(Step))
    ]
    kernels.loradock_layers.restype = None
    kernels.loradock_head.argtypes = [
        *(c_void_p, c_void_p, POINTER(Matrix), POINTER(Shape), POINTER(Step), c_void_p)
    ]
    kernels.loradock_head.restype = None
    kernels.loradock_team_new.argtypes = [c_int32]
    kernels.loradock_team_new.restype = c_void_p
    kernels.loradock_team_threads.argtypes = [c_void_p]
    kernels.loradock_team_free.argtypes = [c_void_p]
    kernels.loradock_team_free.restype = None
    return kernels


def build_kernels(folder: Path) -> Path:
    """Compile into a file in `folder`, named for what it was made of, unless it is there.

    Any number of processes may do so at once. Raises `NoKernels`.
    """
    compiler = shlex.split(os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or "")
    sources = SOURCE.read_bytes() + INCLUDED.read_bytes()
    identity = (sources, repr((compiler, FLAGS, _processor())).encode())
    library = folder / f"{hashlib.sha256(b'|'.join(identity)).hexdigest()[:32]}.so"
    if library.exists():
        return library
    if not compiler:
        raise NoKernels("there is no C compiler (cc)")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".building-") as scratch:
            made = _compile(compiler, Path(scratch))
            made.replace(library)
    except OSError as error:
        raise NoKernels(f"what is compiled can't be kept: {error}") from error
    return library


def _compile(compiler: list[str], scratch: Path) -> Path:
    made = scratch / "kernels.so"
    command = [*compiler, *FLAGS, str(SOURCE), "-o", str(made), "-lm"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoKernels(f"{compiler[0]} could not be run: {error}") from error
    if done.returncode:
        raise NoKernels(f"{compiler[0]} failed: {done.stderr.strip()[-500:]}")
    return made


def _processor() -> str:
    """Tell this processor from others that share the cache folder."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def _cache_folder() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "loradock" / "kernels"
