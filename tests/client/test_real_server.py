"""The SDK against the real server: registry, aliases, evaluations, lineage, inference."""

import itertools
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from loradock.client import (
    AsyncClient,
    BaseDigests,
    BaseModelMismatch,
    Client,
    DataLoss,
    EvalGateFailed,
    FinishReason,
    InvalidRequest,
    LoradockError,
    MessageTooLarge,
    Metric,
    MetricDemand,
    MetricDirection,
    MoveKind,
    NotAdmitted,
    NotFound,
    PreconditionFailed,
    PromptTooLong,
    RequestIdReused,
    ResidencyState,
    StaleAlias,
    StillReferenced,
    SuiteDemand,
    VersionState,
    VersionYanked,
)

BASE = "tiny-base"
PROFILE = {
    "template": "Sort: {{ content }}",
    "labels": ["billing", "bug", "other"],
    "decoding": {"max_tokens": 12, "temperature": 0.0},
}
_numbers = itertools.count()


@pytest.fixture(scope="module")
def client(real_server):
    with Client(real_server.address) as connected:
        yield connected


@pytest.fixture
def task():
    """A name that no other test uses."""
    return f"task-{next(_numbers)}"


@pytest.fixture(scope="module")
def one(tiny):
    return tiny.folder("one", profile=PROFILE)


@pytest.fixture(scope="module")
def two(tiny):
    return tiny.folder("two", rank=8)


@pytest.fixture
def live(client, task, one, two):
    """An adapter with two versions, the first in production."""
    client.versions.push(task, one, base=BASE)
    client.versions.push(task, two, base=BASE)
    client.aliases.set(task, "production", 1, wait_s=10)
    return task


@pytest.mark.contract("R1")
def test_r1_the_same_content_again_sends_nothing(client, task, one):
    first = client.versions.push(task, one, base=BASE)
    again = client.versions.push(task, one, base=BASE)
    assert first.created and not again.created
    assert again.sent_bytes == 0
    assert again.version == first.version
    assert first.version.reference == f"{task}@1"
    assert first.version.profile.labels == ("billing", "bug", "other")
    assert first.version.base_model == f"baseModels/{BASE}"


@pytest.mark.contract("R8")
def test_r8_a_policy_holds_whoever_moves_the_alias(client, live):
    rows = "sha256:" + "d" * 64
    demands = (
        MetricDemand("accuracy", threshold=0.8, margin=0.05),
        MetricDemand("loss", threshold=0.3, direction=MetricDirection.LOWER),
    )
    suite = SuiteDemand("held-out", demands, rows)
    policy = client.policies.set(live, "production", [suite], max_age_s=3600.5, reason="careful")
    assert (policy.suites, policy.max_age_s, policy.etag) == ((suite,), 3600.5, "1")
    assert policy == client.policies.get(live, "production")
    for validate_only in (True, False):
        with pytest.raises(EvalGateFailed) as refused:
            client.aliases.set(live, "production", 2, validate_only=validate_only)
        assert [(p.subject, p.code) for p in refused.value.problems] == [
            ("held-out/accuracy", "MISSING"),
            ("held-out/loss", "MISSING"),
        ]
        assert refused.value.metadata["version"] == f"{live}@2"
    metrics = [Metric("accuracy", 0.9, 10), Metric("loss", 0.5, 10, None, None, LOWER)]
    for number in (1, 2):
        client.evaluations.record(
            "held-out", metrics=metrics, dataset_digest=rows, version=f"{live}@{number}"
        )
    report = client.policies.check(live, "production", 2)
    assert [(c.metric, c.code, c.value, c.wanted) for c in report.checks] == [
        ("accuracy", "PASSED", 0.9, 0.8),
        ("accuracy", "PASSED", 0.9, 0.85),
        ("loss", "THRESHOLD_MISSED", 0.5, 0.3),
    ]
    assert not report.passed
    with pytest.raises(InvalidRequest):
        client.aliases.set(live, "production", 2, override_policy=True)
    moved = client.aliases.set(live, "production", 2, override_policy=True, reason="can't wait")
    assert moved.alias.version_number == 2
    assert client.aliases.rollback(live, "production").alias.version_number == 1


LOWER = MetricDirection.LOWER


def test_answers_name_their_version(client, live):
    by_alias = client.generate("refund please", adapter=live, max_tokens=8)
    assert by_alias.answerer.adapter == live
    assert by_alias.answerer.version_number == 1
    assert by_alias.answerer.alias == "production"
    assert by_alias.answerer.version_digest == client.versions.get(live, 1).digest
    by_number = client.generate("refund please", adapter=f"{live}@1", max_tokens=8)
    assert by_number.text == by_alias.text
    assert by_number.answerer.alias == ""
    base = client.generate("refund please", base=True, max_tokens=8, temperature=0)
    assert (base.answerer.adapter, base.answerer.version_digest) == ("", "")
    assert base.answerer.base_model == BASE
    assert base.answerer.base_digests == by_alias.answerer.base_digests
    assert base.text != by_alias.text


def test_a_digest_is_a_reference(client, live):
    digest = client.versions.get(live, 2).digest
    answer = client.generate("hi", adapter=f"{live}@{digest}", max_tokens=4)
    assert answer.answerer.version_number == 2


def test_stream_is_the_same_answer(client, live):
    whole = client.generate("a longer question", adapter=live, max_tokens=24, logprobs=True)
    with client.stream("a longer question", adapter=live, max_tokens=24, logprobs=True) as stream:
        assert stream.answerer.version_digest == whole.answerer.version_digest
        text = "".join(chunk.text for chunk in stream)
        streamed = stream.generation
    assert text == whole.text == streamed.text
    assert streamed.token_ids == whole.token_ids
    assert len(streamed.token_logprobs) == len(streamed.token_ids) == streamed.usage.output_tokens
    assert streamed.finish_reason is whole.finish_reason


def test_request_profile_server_is_the_precedence(client, live):
    assert client.generate("hi", adapter=f"{live}@1", logprobs=True).usage.output_tokens <= 12
    short = client.generate("hi", adapter=f"{live}@1", max_tokens=3)
    assert short.usage.output_tokens <= 3


def test_sampling(client, live):
    def ask(seed):
        return client.generate(
            "hi", adapter=live, max_tokens=24, temperature=1.5, top_k=50, top_p=0.95, seed=seed
        ).text

    assert ask(7) == ask(7)
    assert len({ask(seed) for seed in range(6)}) > 1


@pytest.mark.contract("C3")
def test_c3_the_same_request_id_draws_the_same(client, live):
    def ask(request_id):
        return client.generate(
            "hi", adapter=live, max_tokens=24, temperature=1.5, request_id=request_id
        )

    first = ask("my-request-1")
    assert first.answerer.request_id == "my-request-1"
    assert ask("my-request-1").text == first.text


def test_messages_and_raw(client):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
    plain = client.count_tokens("hi", base=True)
    assert client.count_tokens(messages, base=True).num_tokens > plain.num_tokens
    assert client.count_tokens("hi", base=True, raw=True).num_tokens == 2
    assert plain.context_length_tokens == 512
    answer = client.generate(messages, base=True, max_tokens=4)
    assert answer.usage.prompt_tokens == client.count_tokens(messages, base=True).num_tokens


def test_templates_are_applied(client, live):
    with_template = client.count_tokens("hi", adapter=f"{live}@1").num_tokens
    without = client.count_tokens("hi", adapter=f"{live}@2").num_tokens
    assert with_template == without + len("Sort: ")


def test_classify_always_gives_a_label(client, live):
    answer = client.classify("refund please", adapter=live)
    assert answer.label in ("billing", "bug", "other")
    assert answer.probabilities[0].label == answer.label
    assert sum(p.probability for p in answer.probabilities) == pytest.approx(1)
    chosen = client.classify("refund please", base=True, labels=["yes", "no"])
    assert {p.label for p in chosen.probabilities} == {"yes", "no"}


def test_score(client):
    found = client.score("Water is", ["wet", "dry!"], base=True)
    assert [score.num_tokens for score in found.scores] == [3, 4]
    for score in found.scores:
        assert score.logprob == pytest.approx(sum(score.token_logprobs), abs=1e-3)


@pytest.mark.contract("S3")
def test_s3_an_unknown_adapter_is_not_found(client, live):
    for reference in ("no-such-adapter", f"{live}@9", f"{live}:nowhere"):
        with pytest.raises(NotFound) as raised:
            client.generate("hi", adapter=reference)
        assert raised.value.metadata["kind"]


def test_prompt_too_long_tells_the_numbers(client):
    with pytest.raises(PromptTooLong) as raised:
        client.generate("x" * 600, base=True)
    assert raised.value.metadata["limit_tokens"] == "512"


@pytest.mark.contract("C6")
@pytest.mark.parametrize("size", [5 << 20, 20 << 20])
def test_c6_the_servers_limit_is_named(real_server, size):
    with (
        Client(real_server.address, max_message_bytes=64 << 20) as client,
        pytest.raises(MessageTooLarge) as raised,
    ):
        client.generate("x" * size, base=True)
    assert int(raised.value.metadata["limit_bytes"]) in (4 << 20, 16 << 20)
    assert "UploadBlob" in str(raised.value) or "in chunks" in str(raised.value)


def test_bad_values_are_told(client):
    for arguments in ({"temperature": -1}, {"top_p": 2.0}, {"max_tokens": 0}):
        with pytest.raises(InvalidRequest) as raised:
            client.generate("hi", base=True, **arguments)
        assert raised.value.reason == "INVALID_FIELD"
    with pytest.raises(InvalidRequest):
        client.adapters.create("Not A Name")


def test_alias_moves_and_walks_back(client, live):
    begun = datetime.now(UTC)
    alias = client.aliases.get(live, "production")
    change = client.aliases.set(live, "production", 2, reason="better", wait_s=10)
    assert change.following is not None and change.following.is_complete
    assert (change.alias.version_number, change.alias.previous_number) == (2, 1)
    assert client.generate("hi", adapter=live, max_tokens=2).answerer.version_number == 2
    with pytest.raises(StaleAlias):
        client.aliases.set(live, "production", 1, etag=alias.etag)
    back = client.aliases.rollback(live, "production", reason="worse", wait_s=10)
    assert back.alias.version_number == 1
    assert client.generate("hi", adapter=live, max_tokens=2).answerer.version_number == 1
    moves = list(client.aliases.history(live, "production", page_size=1))
    assert [(m.kind, m.version_number, m.reason) for m in moves] == [
        (MoveKind.ROLLBACK, 1, "worse"),
        (MoveKind.SET, 2, "better"),
        (MoveKind.SET, 1, ""),
    ]
    then = client.aliases.at(live, "production", begun)
    assert then is not None and then.version_number == 1
    assert client.aliases.at(live, "production", begun - timedelta(days=1)) is None
    with pytest.raises(PreconditionFailed) as raised:
        client.aliases.rollback(live, "production")
    assert raised.value.reason == "NOTHING_TO_ROLL_BACK"


def test_alias_dry_run_moves_nothing(client, live):
    would = client.aliases.set(live, "production", 2, validate_only=True)
    assert would.alias.version_number == 2
    assert client.aliases.get(live, "production").version_number == 1
    with pytest.raises(NotFound):
        client.aliases.set(live, "production", 9, validate_only=True)


def test_aliases_are_listed_and_deleted(client, live):
    client.aliases.set(live, "staging", 2)
    assert {a.name for a in client.aliases.list(live, page_size=1)} == {"production", "staging"}
    client.aliases.delete(live, "staging")
    with pytest.raises(NotFound):
        client.aliases.get(live, "staging")
    client.aliases.set(live, "staging", 1)
    assert client.aliases.get(live, "staging").version_number == 1


@pytest.mark.contract("C3")
def test_c3_the_same_mutation_twice_is_done_once(client, live):
    alias = client.aliases.get(live, "production")
    for _ in range(2):
        moved = client.aliases.set(
            live, "production", 2, etag=alias.etag, request_id=f"{live}-move"
        )
        assert moved.alias.generation == alias.generation + 1
    with pytest.raises(RequestIdReused):
        client.aliases.set(live, "production", 1, etag=alias.etag, request_id=f"{live}-move")


@pytest.fixture
def spare(client, live, tiny):
    """The number of a version that no server holds: its content is nobody else's."""
    return client.versions.push(live, tiny.folder(live), base=BASE).version.number


def test_yank_unyank_delete(client, live, spare):
    with pytest.raises(StillReferenced) as raised:
        client.versions.delete(live, 1)
    assert "production" in str(raised.value)
    yanked = client.versions.yank(live, spare, reason="leaks")
    assert (yanked.state, yanked.state_reason) == (VersionState.YANKED, "leaks")
    with pytest.raises(VersionYanked):
        client.versions.resolve(f"{live}@{spare}")
    assert [v.number for v in client.versions.list(live)] == [2, 1]
    assert len(list(client.versions.list(live, include_yanked=True))) == 3
    assert client.versions.unyank(live, spare, reason="it did not").state is VersionState.READY
    client.versions.delete(live, spare)
    with pytest.raises(LoradockError):
        client.versions.resolve(f"{live}@{spare}")


@pytest.mark.contract("R3")
def test_r3_what_is_deleted_does_not_come_back(client, live, spare):
    client.versions.delete(live, spare)
    for change in (client.versions.yank, client.versions.unyank):
        with pytest.raises(PreconditionFailed) as raised:
            change(live, spare, reason="again")
        assert raised.value.reason == "VERSION_IMMUTABLE"
    assert client.versions.get(live, spare).state is VersionState.DELETED


def test_adapters(client, task):
    made = client.adapters.create(task, owner="me", description="about parcels", tags=["t1"])
    assert (made.name, made.project, made.owner, made.tags) == (task, "default", "me", ("t1",))
    updated = client.adapters.update(task, tags=["t2"], etag=made.etag)
    assert (updated.tags, updated.owner) == (("t2",), "me")
    with pytest.raises(LoradockError) as raised:
        client.adapters.update(task, owner="you", etag=made.etag)
    assert raised.value.reason.startswith("STALE")
    assert [a.name for a in client.adapters.list(tag="t2")] == [task]
    assert task in [a.name for a in client.adapters.list(text="parcels", page_size=1)]
    client.adapters.delete(task)
    with pytest.raises(NotFound):
        client.adapters.get(task)


def test_search(client, live):
    found = list(client.versions.search(base=BASE, page_size=1))
    assert {v.number for v in found if v.adapter == live} == {1, 2}


def test_bases(client):
    assert f"baseModels/{BASE}" in [base.name for base in client.bases.list()]
    base = client.bases.get(BASE)
    assert base.context_length_tokens == 512
    assert base.modules["model.layers.0.self_attn.q_proj"].in_features == 64
    again = client.bases.register(
        BASE,
        digests=base.digests,
        architecture=base.architecture,
        modules=base.modules,
        context_length_tokens=base.context_length_tokens,
        num_parameters=base.num_parameters,
    )
    assert not again.created


@pytest.mark.contract("A2")
def test_a2_another_base_is_refused(client, task, one):
    wrong = BaseDigests(f"sha256:{'1' * 64}", f"sha256:{'2' * 64}", f"sha256:{'3' * 64}")
    with pytest.raises(BaseModelMismatch):
        client.versions.push(task, one, base=BASE, base_digests=wrong)


@pytest.mark.contract("A2")
def test_a2_a_pulled_folder_remembers_its_base(client, live, tmp_path):
    """Under the same name, another registry may have another base."""
    client.versions.pull(live, tmp_path)
    told = json.loads((tmp_path / "version.json").read_text())
    told["base_digests"]["weights"] = f"sha256:{'1' * 64}"
    (tmp_path / "version.json").write_text(json.dumps(told))
    with pytest.raises(BaseModelMismatch) as raised:
        client.versions.push(live, tmp_path, base=BASE)
    assert [problem.subject for problem in raised.value.problems] == ["base.weights"]


@pytest.mark.contract("A3")
def test_a3_all_problems_come_back_at_once(client, task, one, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "bad"
    shutil.copytree(one, folder)
    tensors = load_file(folder / "adapter_model.safetensors")
    names = sorted(tensors)
    tensors[names[0].replace("q_proj", "x_proj")] = tensors.pop(names[0])
    tensors[names[-1]] = tensors[names[-1]] * float("nan")
    save_file(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(NotAdmitted) as raised:
        client.versions.push(task, folder, base=BASE)
    assert len(raised.value.problems) >= 2
    with pytest.raises(NotAdmitted):
        client.versions.push(task, folder, base=BASE, validate_only=True)


def test_validate_only_publishes_nothing(client, task, one):
    would = client.versions.push(task, one, base=BASE, validate_only=True)
    assert would.version.digest.startswith("sha256:")
    with pytest.raises(NotFound):
        client.adapters.get(task)


@pytest.mark.contract("R5")
def test_r5_a_wrong_digest_is_data_loss(client, task, tmp_path, one):
    from loradock.client._folder import read_folder
    from loradock.client._values.registry import Blob

    weights = read_folder(one).weights
    lying = type(weights)(weights.path, Blob(f"sha256:{'0' * 64}", weights.blob.size_bytes))
    with pytest.raises(DataLoss):
        client.versions._blobs.send("default", [lying], None)


def test_pull_and_push_again_give_the_same_digest(client, live, tmp_path):
    pulled = client.versions.pull(live, tmp_path / "pulled")
    told = json.loads((tmp_path / "pulled/version.json").read_text())
    assert told["digest"] == pulled.digest
    again = client.versions.push(live, tmp_path / "pulled", base=BASE)
    assert (again.created, again.version.digest) == (False, pulled.digest)


def test_lineage(client, live, tiny):
    dataset = f"sha256:{'e' * 64}"
    child = tiny.folder(
        "child",
        lineage={
            "parents": [{"version": f"{live}@1"}],
            "datasets": [{"name": "rows", "digest": dataset}],
            "training": {"seed": 3, "epochs": 1.5},
        },
    )
    version = client.versions.push(live, child, base=BASE).version
    assert version.lineage.parents == (client.versions.get(live, 1).digest,)
    assert version.lineage.training == {"seed": 3, "epochs": 1.5}
    up = client.lineage(version.reference)
    assert up.root == version.digest
    assert {node.kind.value for node in up.nodes} >= {"version", "base", "dataset"}
    assert dataset in {edge.parent for edge in up.edges}
    down = client.lineage(dataset=dataset, direction="downstream")
    assert version.digest in {node.id for node in down.nodes}
    assert client.lineage(base=BASE, direction="downstream", max_depth=1).nodes


def test_evaluations(client, live):
    recorded = client.evaluations.record(
        "heldout",
        metrics=[Metric("accuracy", 0.5, 10, 0.2, 0.8)],
        dataset_digest=f"sha256:{'f' * 64}",
        version=f"{live}@1",
        cost={"tokens": 100.0},
        harness="a test",
        engine_profile="cpu/float32",
    )
    assert (recorded.adapter, recorded.version_number) == (live, 1)
    assert recorded.metrics == (Metric("accuracy", 0.5, 10, 0.2, 0.8),)
    assert recorded.base_digests == client.bases.get(BASE).digests
    assert client.evaluations.get(recorded.id) == recorded
    assert list(client.evaluations.list(adapter=live, number=1, suite="heldout")) == [recorded]
    bare = client.evaluations.record(
        "heldout",
        metrics=[Metric("accuracy", 0.25, 8)],
        dataset_digest=f"sha256:{'f' * 64}",
        base=BASE,
    )
    assert bare.adapter is None and bare.version_digest is None
    with pytest.raises(InvalidRequest, match="tomorrow"):
        client.evaluations.record("s", metrics=[], dataset_digest="", version=live)


def test_server(client, live):
    status = client.server.status()
    assert status.server.base_model == f"baseModels/{BASE}"
    assert status.limits.context_length_tokens == 512
    assert status.server.server_id in [server.server_id for server in client.server.list()]
    loaded = client.server.load(f"{live}@2")
    assert loaded.state is ResidencyState.RESIDENT
    assert loaded.version_digest == client.versions.get(live, 2).digest
    client.generate("hi", adapter=live, max_tokens=1)  # from then on the alias is followed
    held = client.server.status()
    assert loaded.version_digest in {r.version_digest for r in held.server.residencies}
    assert live in {alias.adapter for alias in held.live_aliases}
    client.server.unload(loaded.version_digest)
    left = {r.version_digest: r.state for r in client.server.status().server.residencies}
    assert left[loaded.version_digest] is ResidencyState.CACHED  # on disk, for the next time
    with pytest.raises(PreconditionFailed):
        client.server.override(live, "production", reason="the catalog answers")


def test_one_client_serves_many_threads(client, live):
    prompts = [f"question {n}" for n in range(8)]
    alone = {p: client.generate(p, adapter=live, max_tokens=8).text for p in prompts}
    with ThreadPoolExecutor(16) as pool:
        answers = list(
            pool.map(lambda p: client.generate(p, adapter=live, max_tokens=8), prompts * 6)
        )
    assert [answer.text for answer in answers] == [alone[p] for p in prompts * 6]


def test_length_is_told(client):
    answer = client.generate("hi", base=True, max_tokens=1)
    assert answer.finish_reason in (FinishReason.LENGTH, FinishReason.STOP)
    assert answer.timings.total_s > 0


async def test_async_client(real_server, live, tmp_path):
    async with AsyncClient(real_server.address) as client:
        answer = await client.generate("hi", adapter=live, max_tokens=4)
        assert answer.answerer.version_number == 1
        async with client.stream("hi", adapter=live, max_tokens=4) as stream:
            assert "".join([chunk.text async for chunk in stream]) == answer.text
        assert live in [adapter.name async for adapter in client.adapters.list(page_size=1)]
        pulled = await client.versions.pull(live, tmp_path)
        pushed = await client.versions.push(live, tmp_path, base=BASE)
        assert pushed.version.digest == pulled.digest
        with pytest.raises(NotFound):
            await client.generate("hi", adapter="no-such-adapter")
