from __future__ import annotations

import subprocess
import sys

import pytest

from edgectl.client import EdgeClient
from edgectl.client.address import HttpAddress, MqttAddress, parse
from edgectl.client.target import FALLBACK_URL, find_target, read_key
from edgectl.errors import EdgeError, Unauthorized, Usage


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://127.0.0.1:8642", HttpAddress("http://127.0.0.1:8642")),
        ("http://box.local:8642/v1/", HttpAddress("http://box.local:8642")),
        ("https://box/llm", HttpAddress("https://box/llm")),
        ("http://[::1]:8642", HttpAddress("http://[::1]:8642")),
        ("mqtt://h", MqttAddress("h", 1883)),
        ("mqtts://h", MqttAddress("h", 8883, tls=True)),
        ("mqtt://me@h:1884/edged/kitchen", MqttAddress("h", 1884, username="me", node="kitchen")),
        ("mqtt://h/home", MqttAddress("h", 1883, base="home")),
        ("mqtt://h/site/hall/edged/box", MqttAddress("h", 1883, base="site/hall/edged", node="box")),
        ("mqtt://h/site/edged/", MqttAddress("h", 1883, base="site/edged")),
        ("mqtt://a%40b@[::1]", MqttAddress("::1", 1883, username="a@b")),
    ],
)
def test_addresses_are_read(url, address):
    assert parse(url) == address


@pytest.mark.parametrize(
    "url",
    ["", "box", "ftp://h", "http://", "http://h:99999", "http://h:x", "mqtt://h/a/+/c", "mqtt://h/#", "mqtt://h//x",
     "http://h?x=1", "http://h/#f", "http://u@h", "http://h h", "http://[::1"],
)  # fmt: skip
def test_what_is_no_address_is_refused_with_the_forms_there_are(url):
    with pytest.raises(Usage) as caught:
        parse(url)
    assert "http://HOST:PORT" in caught.value.hint


@pytest.mark.parametrize("url", ["mqtt://me:s3cret@h", "http://me:s3cret@h"])
def test_a_password_in_the_address_is_refused_and_not_repeated(url):
    with pytest.raises(Usage) as caught:
        EdgeClient(url)
    assert "s3cret" not in caught.value.message + caught.value.hint


@pytest.mark.parametrize("options", [{"timeout_s": 0}, {"timeout_s": -1}, {"client": "a/b"}, {"client": ""}])
def test_bad_options_of_a_client_are_refused(options):
    with pytest.raises(Usage):
        EdgeClient("http://h", **options)


@pytest.mark.parametrize(
    "wrong",
    [{"temperature": "hot"}, {"max_tokens": 1.5}, {"stop": [3]}, {"seed": "x"}, {"raw": True, "system": "s"},
     {"raw": True, "thinking": True}],
)  # fmt: skip
def test_wrong_types_are_refused_before_anything_is_sent(wrong):
    with EdgeClient("http://127.0.0.1:1") as client, pytest.raises(EdgeError) as caught:
        client.generate("x", **wrong)
    assert caught.value.code == "bad_request"


def test_importing_the_client_loads_no_transport():
    code = "import edgectl.client, sys; print([m for m in ('httpx', 'paho', 'rich') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("EDGECTL_URL", raising=False)
    monkeypatch.delenv("EDGECTL_KEY_FILE", raising=False)
    config = tmp_path / "edged" / "edged.toml"
    config.parent.mkdir()
    monkeypatch.setattr("edgectl.client.target.local_config_path", lambda: config)
    return config


def write(config, text):
    config.write_text(f'node = "box"\n[model]\npath = "/m.gguf"\n{text}')


def test_without_any_configuration_loopback_is_asked(home):
    assert find_target().url == FALLBACK_URL


def test_the_command_line_beats_the_environment_which_beats_the_configuration(home, monkeypatch):
    write(home, "[http]\nport = 9000\n")
    assert find_target().url == "http://127.0.0.1:9000"
    monkeypatch.setenv("EDGECTL_URL", "http://env")
    assert find_target().url == "http://env"
    assert find_target("http://argument").url == "http://argument"


def test_a_wildcard_listener_is_asked_on_loopback_with_its_key(home):
    key = home.with_name("edgectl.key")
    write(home, f'[http]\nhost = "0.0.0.0"\nkeys_file = "{home.with_name("keys.toml")}"\n')
    assert find_target().key_file is None
    key.write_text("the key of this computer")
    target = find_target()
    assert target.url == "http://127.0.0.1:8642"
    assert target.key_file == key


def test_the_key_of_this_computer_is_not_sent_to_another_one(home):
    home.with_name("edgectl.key").write_text("the key of this computer")
    write(home, f'[http]\nkeys_file = "{home.with_name("keys.toml")}"\n')
    assert find_target("http://elsewhere").key_file is None


def test_with_http_off_the_broker_is_asked(home):
    write(
        home,
        '[http]\nenabled = false\n[mqtt]\nhost = "h"\nport = 8883\n'
        'username = "u"\npassword_file = "/pw"\nca_file = "/ca"\n',
    )
    target = find_target()
    assert target.url == "mqtts://u@h:8883/edged/box"
    assert (str(target.key_file), str(target.ca_file)) == ("/pw", "/ca")


def test_a_key_is_one_line_without_its_line_end(tmp_path):
    (tmp_path / "key").write_text("abc-123\n")
    assert read_key(tmp_path / "key") == "abc-123"


@pytest.mark.parametrize("content", [b"", b"\n", b"a\nb", b"x" * 5000, b"a\x00b"])
def test_what_cannot_be_a_key_is_refused(tmp_path, content):
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(Usage):
        read_key(tmp_path / "key")


def test_a_missing_key_file_is_named(tmp_path):
    with pytest.raises((Usage, Unauthorized), match="none"):
        read_key(tmp_path / "none")
