"""Settings: one flat value, read once, from four places in order."""

from dataclasses import fields
from pathlib import Path

import pytest

from loradock.server.config import DTYPES, Config, load_config
from loradock.server.errors import StartRefused

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_flag_goes_before_environment_before_file_before_default(tmp_path):
    file = tmp_path / "loradock.toml"
    file.write_text('model = "m"\nport = 1\nmax_queue = 1\nmax_running_rows = 1\n')
    environment = {"LORADOCK_PORT": "2", "LORADOCK_MAX_QUEUE": "2", "LORADOCK_CONFIG": str(file)}
    config = load_config({"port": "3", "max_running_rows": None}, environment)
    assert (config.port, config.max_queue, config.max_running_rows) == (3, 2, 1)
    assert config.follow_interval_s == Config(model="m").follow_interval_s


@pytest.mark.parametrize("source", ["environment", "file"])
def test_unknown_key_is_an_error_that_names_near_ones(source, tmp_path):
    file = tmp_path / "loradock.toml"
    file.write_text('model = "m"\n' + ("prot = 1\n" if source == "file" else ""))
    environment = {"LORADOCK_PROT": "1"} if source == "environment" else {}
    with pytest.raises(StartRefused, match=r"'prot'; is it .*port"):
        load_config({"config": file}, environment)


def test_values_are_read_by_the_settings_kind():
    config = load_config(
        {"model": "m", "max_adapter_bytes": "1 GiB", "insecure": "yes", "roles": "inference"}, {}
    )
    assert config.max_adapter_bytes == 1 << 30
    assert config.insecure
    assert config.has_role("inference")
    assert not config.has_role("registry")
    with pytest.raises(StartRefused, match=r"port: 'x' is no whole number"):
        load_config({"model": "m", "port": "x"}, {})


def test_what_is_wrong_is_told_at_once():
    with pytest.raises(StartRefused, match=r"roles: .*port: .*model: "):
        Config(port=70_000, roles="inference,typo")


def test_a_folder_that_can_not_be_made_is_refused_by_its_setting(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StartRefused, match=r"^data_dir: \S+/file/x can't be made: Not a directory"):
        Config(roles="registry", data_dir=tmp_path / "file" / "x").make_folders()
    settings = {"data_dir": tmp_path / "data", "cache_dir": tmp_path / "file"}
    Config(roles="registry", **settings).make_folders()
    assert (tmp_path / "data").is_dir()
    with pytest.raises(StartRefused, match=r"^cache_dir: \S+/file can't be made: File exists"):
        Config(model="m", **settings).make_folders()
    with pytest.raises(StartRefused, match=r"^config: nowhere.toml: No such file or directory"):
        load_config({"config": "nowhere.toml"}, {})


def test_names_of_bases_are_made_of_the_model():
    assert Config(model="/models/My_Base.v2.gguf").base_name == "my-base-v2"
    assert Config(model="org/Some-Model", model_name="given").base_name == "given"
    assert Config(model="/models/" + "m" * 62 + "-x").base_name == "m" * 62


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"model": "m", "model_name": "Ti ny"}, "model_name: 'Ti ny' is no .*; 'ti-ny' is one$"),
        ({"model": "m", "model_name": "ж"}, "model_name: 'ж' is no base name: [^;]*$"),
        ({"roles": "registry", "model_name": "-"}, "model_name: '-' is no base name"),
        ({"model": ".."}, r"model: '\.\.' gives the base no name; give one \(--model-name\)$"),
    ],
)
def test_what_is_no_name_of_a_base_is_refused_not_bent(settings, said):
    with pytest.raises(StartRefused, match=said):
        Config(**settings)


def test_secrets_are_not_shown():
    assert "hunter2" not in repr(
        Config(model="m", token="hunter2", database_url="postgresql://u:hunter2@h/d")
    )


@pytest.mark.parametrize(
    ("host", "allowed"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False)],
)
def test_open_door_beyond_this_host_is_refused(host, allowed, tmp_path):
    config = Config(model="m", host=host)
    if allowed:
        config.refuse_open_door()
    else:
        with pytest.raises(StartRefused, match="--token-file"):
            config.refuse_open_door()
    token = tmp_path / "token"
    token.write_text("secret\n")
    Config(model="m", host=host, token_file=token).refuse_open_door()
    Config(model="m", host=host, insecure=True).refuse_open_door()
    assert Config(model="m", token_file=token).read_token() == "secret"


def test_token_that_is_none_is_refused(tmp_path):
    empty = tmp_path / "token"
    empty.write_text("\n")
    for file in (empty, tmp_path / "missing"):
        with pytest.raises(StartRefused, match="token_file: "):
            Config(model="m", host="0.0.0.0", token_file=file).refuse_open_door()
    with pytest.raises(StartRefused, match="give one"):
        Config(model="m", token="a", token_file=empty)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        *(("max_running_rows", "0"), ("stream_buffer_tokens", "0"), ("port", "70000")),
        *(("follow_interval_s", "0"), ("heartbeat_interval_s", "nan"), ("rollback_window_s", "-1")),
        *(("log_level", "loud"), ("roles", ""), ("max_queue", "-1"), ("insecure", "perhaps")),
        *(("dtype", "int3"), ("dtype", "float16"), ("device", "abacus"), ("device", "cuda:")),
    ],
)
def test_value_out_of_range_is_refused_by_name(setting, value):
    with pytest.raises(StartRefused, match=f"^{setting}: "):
        load_config({"model": "m"}, {f"LORADOCK_{setting.upper()}": value})


@pytest.mark.parametrize("setting", ["kv_tokens", "step_tokens", "threads", "max_queue"])
def test_negative_number_is_told_what_is_the_least(setting):
    with pytest.raises(StartRefused, match=f"^{setting}: must be at least 0$"):
        load_config({"model": "m", setting: "-4"}, {})


def test_dtypes_are_those_of_the_engine():
    from loradock.engine import loading

    assert {*DTYPES} == {"auto", *loading.DTYPES}
    assert [Config(model="m", device=d).device for d in ("cpu", "cuda", "cuda:1")]


def test_file_takes_toml_own_kinds(tmp_path):
    file = tmp_path / "loradock.toml"
    file.write_text(
        'model = "m"\ninsecure = true\nroles = ["registry"]\nmax_adapter_bytes = "2 GiB"\n'
        "follow_interval_s = 0.25\nport = 0\n"
    )
    config = load_config({"config": file}, {})
    assert (config.insecure, config.roles, config.port) == (True, "registry", 0)
    assert (config.max_adapter_bytes, config.follow_interval_s) == (2 << 30, 0.25)
    file.write_text("model = \n")
    with pytest.raises(StartRefused, match="loradock.toml"):
        load_config({"config": file}, {})
    with pytest.raises(StartRefused, match="missing"):
        load_config({"config": tmp_path / "missing"}, {})


def test_every_setting_is_documented():
    documented = [line.split("`")[1] for line in PAGE.read_text().splitlines() if line[:3] == "| `"]
    assert documented == [f.name for f in fields(Config)]
