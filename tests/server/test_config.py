"""Settings: one flat value, read once, from four places in order."""

from dataclasses import fields
from pathlib import Path

import pytest

from loradock.server.config import Config, load_config
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


def test_names_of_bases_are_made_of_the_model():
    assert Config(model="/models/My_Base.v2.gguf").base_name == "my-base-v2"
    assert Config(model="org/Some-Model", model_name="given").base_name == "given"


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


def test_every_setting_is_documented():
    documented = [line.split("`")[1] for line in PAGE.read_text().splitlines() if line[:3] == "| `"]
    assert documented == [f.name for f in fields(Config)]
