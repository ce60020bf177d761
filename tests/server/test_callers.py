"""Callers who are told apart by a file: who they are, and what they may do."""

import hashlib

import pytest
from served import running

from loradock.client import (
    AliasPolicy,
    AsyncClient,
    NotFound,
    PermissionDenied,
    PreconditionFailed,
    Unauthenticated,
)
from loradock.server.callers import read_callers
from loradock.server.errors import StartRefused

ANN, BOB, SHOP = "ann's token", "bob's token", "the shop's token"


def sha256(token):
    return hashlib.sha256(token.encode()).hexdigest()


@pytest.fixture
def callers_file(tmp_path):
    file = tmp_path / "callers.toml"
    file.write_text(f"""
        [[caller]]
        subject = "ann"
        roles = ["view", "publish", "promote"]
        token_sha256 = "{sha256(ANN)}"
        [[caller]]
        subject = "bob"
        token_sha256 = "{sha256(BOB)}"
        [[caller]]
        subject = "shop"
        project = "shop"
        token_sha256 = "{sha256(SHOP)}"
    """)
    return file


@pytest.mark.contract("X1")
async def test_x1_callers_have_their_own_name_roles_and_project(
    tiny_base, tiny_adapter, tmp_path, callers_file
):
    async with running(tiny_base, tmp_path / "data", callers_file=callers_file) as served:
        address = served.server.address
        async with (
            AsyncClient(address, token=ANN) as ann,
            AsyncClient(address, token=BOB) as bob,
            AsyncClient(address, token=SHOP) as shop,
            AsyncClient(address, token=sha256(ANN)) as thief,
        ):
            await ann.adapters.create("triage")
            pushed = await ann.versions.push("triage", tiny_adapter(1), base="tiny")
            assert pushed.version.created_by == "ann"
            with pytest.raises(NotFound):
                await shop.adapters.get("triage")
            with pytest.raises(PermissionDenied):
                await ann.generate("hello", adapter="triage@1")
            with pytest.raises(Unauthenticated):
                await thief.adapters.get("triage")
            await bob.policies.set("triage", "production", [], num_approvals=1, reason="two eyes")
            await ann.aliases.approve("triage", "production", 1)  # her own does not count
            with pytest.raises(PreconditionFailed, match="0 of 1"):
                await ann.aliases.set("triage", "production", 1)
            await bob.aliases.approve("triage", "production", 1)
            await ann.aliases.set("triage", "production", 1)
            assert (await bob.generate("hello", adapter="triage")).answerer.version_number == 1
            assert isinstance(await bob.policies.get("triage", "production"), AliasPolicy)


@pytest.mark.contract("X3")
def test_x3_a_refused_file_tells_all_that_is_wrong_and_no_hash(tmp_path):
    file = tmp_path / "callers.toml"
    digest = sha256("one")
    file.write_text(f"""
        [[caller]]
        subject = "ann"
        roles = ["view", "reign"]
        token_sha256 = "{digest}"
        [[caller]]
        subject = "ann"
        token_sha256 = "{digest}"
        colour = "red"
        [[caller]]
        subject = "token"
        project = "No Such"
        token_sha256 = "plain text"
    """)
    with pytest.raises(StartRefused) as refused:
        read_callers(file, "default")
    told = str(refused.value)
    for part in ("reign", "colour", "caller 3: subject", "token_sha256 has", "No Such", "'ann'"):
        assert part in told
    assert digest not in told and "plain text" not in told
    for content in ("", "caller = 3", "[other]", "[[caller]"):
        file.write_text(content)
        with pytest.raises(StartRefused, match="callers_file"):
            read_callers(file, "default")
