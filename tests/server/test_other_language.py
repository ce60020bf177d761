"""C7 with a client that is none of Python's: made of the .proto files, by Node's own gRPC."""

import asyncio
import base64
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from google.rpc import error_details_pb2, status_pb2
from served import running

ROOT = Path(__file__).parents[2]


def run(*command: object, folder: Path) -> str:
    words = [str(word) for word in command]
    return subprocess.run(words, cwd=folder, stdout=subprocess.PIPE, text=True, check=True).stdout


@pytest.mark.contract("C7")
@pytest.mark.skipif(shutil.which("npm") is None, reason="Node.js is not here")
async def test_c7_a_client_made_in_another_language_is_answered(tiny_base, tmp_path):
    folder = shutil.copytree(ROOT / "tests" / "node", tmp_path / "node")
    run("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", folder=folder)
    async with running(tiny_base, tmp_path / "data") as served:
        expected = await served.ask(None)
        ask = ("node", "client.js", served.server.address, ROOT / "proto")
        heard = json.loads(await asyncio.to_thread(run, *ask, folder=folder))
    whole, pieces, refusal = heard["whole"], heard["pieces"], heard["refusal"]
    assert (whole["text"], whole["tokenIds"]) == (expected.text, list(expected.token_ids))
    assert whole["answerer"]["baseModel"] == expected.answerer.base_model
    assert pieces[0]["head"]["answerer"]["serverId"] == expected.answerer.server_id
    assert "".join(p["delta"]["text"] for p in pieces if p["event"] == "delta") == expected.text
    assert pieces[-1]["tail"]["finishReason"] == whole["finishReason"] == "FINISH_REASON_LENGTH"
    assert refusal["code"] == "NOT_FOUND"
    status = status_pb2.Status.FromString(base64.b64decode(refusal["details"]))
    info = error_details_pb2.ErrorInfo()
    assert any(detail.Unpack(info) for detail in status.details)
    assert info.reason == "NOT_FOUND"
