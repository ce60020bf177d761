#!/usr/bin/env bash
# Generates the Python code of the wire beside the .proto files, or into a folder of the same shape.
# Usage: scripts/generate_proto.sh [OUT]
# The generator is pinned (proto/requirements.txt): the oldest release that the SDK supports, since
# generated code refuses an older runtime and accepts a newer one.
set -euo pipefail
cd "$(dirname "$0")/.."
out="${1:-proto}"
venv="${PROTO_VENV:-.venv-proto}"
export PATH="$PWD/$venv/bin:$PATH"
mkdir -p "$out"
python -m grpc_tools.protoc -Iproto --python_out="$out" --mypy_out="$out" proto/loradock/v1/*.proto
python -m grpc_tools.protoc -Iproto --grpc_python_out="$out" --mypy_grpc_out="$out" \
  proto/loradock/v1/*_service.proto
