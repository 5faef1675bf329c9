"""TLS between a box, its clients and a real mosquitto: certificates of both sides, and each way to fail."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import ssl
import subprocess
import sys

import paho.mqtt.client as paho
import pytest

from edgectl.client import EdgeClient, Unauthorized, Unreachable
from edgectl.errors import Usage
from edged.transports.mqtt import tls
from tests.integration.broker import MOSQUITTO, Broker
from tests.integration.mqtt_peer import Peer, until
from tests.integration.scripted_service import ScriptedService
from tests.integration.test_mqtt import ROOT, VERSIONS, serving
from tests.kit.certificates import Authority

pytestmark = [
    pytest.mark.mosquitto,
    pytest.mark.skipif(not MOSQUITTO, reason="mosquitto is not installed"),
]


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("tls"), "stranger")


def asks_for_certificates(authority):
    """Lines of mosquitto.conf: who has no certificate of ours is nobody, and its name is the user's."""
    return (f"cafile {authority.file}", "require_certificate true", "use_identity_as_username true")


async def condition_of(port, needle, **config):
    """The condition of a box with these settings, once it says ``needle``."""
    async with serving(port, ScriptedService(), connect=False, **config) as mqtt:
        await until(lambda: mqtt.condition() and needle in mqtt.condition().message, needle)
        assert not mqtt.connected
        return mqtt.condition()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_broker_with_a_certificate_of_the_authority_is_trusted(tmp_path, authority, version, host):
    async def scenario(broker):
        async with (
            serving(broker.port, ScriptedService(), ca_file=str(authority.file), host=host, version=version),
            Peer(broker.plain_port, "#", version=version) as peer,
        ):
            await until(lambda: "online" in peer.texts(f"{ROOT}/status"))
            peer.send(f"{ROOT}/request/me/chat", {"id": "1", "prompt": "x" * 3000})
            assert (await peer.wait(f"{ROOT}/response/me/chat"))[0]["text"] == f"echo: {'x' * 3000}"

    with Broker(tmp_path, "allow_anonymous true", tls=authority.server(), plain=True) as broker:
        asyncio.run(scenario(broker))


@pytest.mark.parametrize(
    ("case", "message", "hint"),
    [
        ("unknown authority", "signed by an authority that is not in mqtt.ca_file", "mqtt.ca_file"),
        ("expired", "its certificate has expired", "clock of this box"),
        ("wrong name", "its certificate is for another name than localhost", "mqtt.host"),
        ("wrong address", "its certificate is for another address than 127.0.0.1", "mqtt.host"),
        ("no TLS there", "TLS failed", "mqtt.port must be the broker's TLS port"),
    ],
)
def test_a_broker_that_cannot_be_trusted_is_a_condition_that_says_why(
    tmp_path, authority, stranger, case, message, hint
):
    other_name = ("kitchen", "DNS:kitchen")
    shown = {
        "expired": lambda: authority.server(days=-1),
        "unknown authority": stranger.server,
        "wrong name": lambda: authority.issue(*other_name),
        "wrong address": lambda: authority.issue(*other_name),
    }.get(case)
    config = {
        "ca_file": str(authority.file),
        "host": "127.0.0.1" if case == "wrong address" else "localhost",
    }
    with Broker(tmp_path, "allow_anonymous true", tls=shown() if shown else None) as broker:
        condition = asyncio.run(condition_of(broker.port, message, **config))
    assert condition.code == "mqtt_disconnected"
    assert hint in condition.hint


@pytest.mark.parametrize("version", VERSIONS)
def test_a_box_with_a_client_certificate_is_known_by_the_name_in_it(tmp_path, authority, version):
    certificate, key = authority.issue("pi")

    async def scenario(port):
        own = {"ca_file": str(authority.file), "cert_file": str(certificate), "key_file": str(key)}
        async with serving(port, ScriptedService(), host="localhost", version=version, **own) as mqtt:
            await until(lambda: mqtt.condition() is None)

    rules = asks_for_certificates(authority)
    with Broker(tmp_path, *rules, "allow_anonymous false", tls=authority.server()) as broker:
        asyncio.run(scenario(broker.port))
        assert "u'pi'" in broker.log.read_text()


@pytest.mark.parametrize("newest", ["tlsv1.2", "tlsv1.3"])
@pytest.mark.parametrize(
    ("case", "message", "hint"),
    [
        ("none", "wants a certificate from this box", "mqtt.cert_file"),
        ("unknown authority", "does not know the authority", "authority"),
        ("expired", "the certificate of this box has expired", "mqtt.cert_file"),
    ],
)
def test_a_broker_that_does_not_take_our_certificate_refuses_and_no_older_protocol_is_tried(
    tmp_path, authority, stranger, newest, case, message, hint, caplog
):
    shown = {
        "none": None,
        "unknown authority": lambda: stranger.issue("pi"),
        "expired": lambda: authority.issue("late", days=-1),
    }[case]
    certificate, key = shown() if shown else ("", "")
    config = {"ca_file": str(authority.file), "cert_file": str(certificate), "key_file": str(key)}
    rules = (*asks_for_certificates(authority), f"tls_version {newest}")
    with (
        caplog.at_level(logging.INFO),
        Broker(tmp_path, *rules, tls=authority.server()) as broker,
    ):
        condition = asyncio.run(condition_of(broker.port, message, host="localhost", **config))
    assert condition.code == "mqtt_refused"
    assert hint in condition.hint
    assert "3.1.1" not in caplog.text


def test_files_that_cannot_be_used_are_named_with_what_they_should_be(tmp_path, authority, stranger):
    certificate, key = authority.issue("own")
    other_key = stranger.issue("own")[1]
    locked = tmp_path / "locked.key"
    subprocess.run(
        ["openssl", "ec", "-in", key, "-aes256", "-passout", "pass:secret", "-out", locked],
        check=True, capture_output=True,
    )  # fmt: skip
    text = tmp_path / "text"
    text.write_text("no certificate")
    gone = tmp_path / "gone"
    cases = [
        ((gone,), f"mqtt.ca_file {gone} cannot be read: No such file or directory"),
        ((text,), f"mqtt.ca_file {text} holds no certificate"),
        ((authority.file, gone, key), f"mqtt.cert_file {gone} cannot be read"),
        ((authority.file, certificate, gone), f"mqtt.key_file {gone} cannot be read"),
        (
            (authority.file, certificate, other_key),
            f"mqtt.key_file {other_key} is not the key of {certificate}",
        ),
        ((authority.file, certificate, locked), "cannot be used"),
        ((authority.file, text, key), "cannot be used"),
    ]
    for files, message in cases:
        with pytest.raises(tls.BrokerUnreachable) as caught:
            tls.context(*map(str, files))
        assert message in caught.value.message
        assert caught.value.hint


def test_tls_before_1_2_is_not_spoken_and_names_are_checked(authority):
    made = tls.context(str(authority.file))
    assert made.minimum_version is ssl.TLSVersion.TLSv1_2
    assert made.check_hostname
    assert made.verify_mode is ssl.CERT_REQUIRED


def test_renewed_files_are_taken_at_the_next_attempt(tmp_path, authority, stranger):
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(stranger.file.read_bytes())

    async def scenario(port):
        async with serving(
            port, ScriptedService(), connect=False, host="localhost", ca_file=str(trusted)
        ) as mqtt:
            await until(lambda: "signed by an authority" in mqtt.condition().message)
            trusted.write_bytes(authority.file.read_bytes())
            await until(lambda: mqtt.connected)

    with Broker(tmp_path, "allow_anonymous true", tls=authority.server()) as broker:
        asyncio.run(scenario(broker.port))


class TestClient:
    """edgectl's own client on a broker that asks for certificates."""

    @pytest.fixture
    def broker(self, tmp_path, authority):
        rules = (*asks_for_certificates(authority), "allow_anonymous false")
        with Broker(tmp_path, *rules, tls=authority.server()) as running:
            yield running

    @pytest.fixture
    def address(self, broker):
        return f"mqtts://localhost:{broker.port}/{ROOT}"

    @pytest.fixture
    def own(self, authority):
        box, device = authority.issue("box"), authority.issue("laptop")
        return {"ca_file": str(authority.file), "cert_file": str(box[0]), "key_file": str(box[1])}, device

    def test_asks_with_a_certificate(self, broker, address, authority, own):
        config, (certificate, key) = own

        async def scenario():
            async with serving(broker.port, ScriptedService(), host="localhost", **config):
                command = [
                    sys.executable, "-m", "edgectl", "ask", "--url", address, "--ca-file", authority.file,
                    "--cert-file", certificate, "--cert-key-file", key, "--json", "hello",
                ]  # fmt: skip
                process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
                out, _ = await asyncio.wait_for(process.communicate(), 30)
                assert process.returncode == 0
                assert json.loads(out)["text"] == "echo: hello"

        asyncio.run(scenario())
        assert "u'laptop'" in broker.log.read_text()

    def test_without_a_certificate_it_is_unauthorized_and_says_which_option(self, address, authority):
        with (
            EdgeClient(address, ca_file=authority.file) as client,
            pytest.raises(Unauthorized, match="certificate") as caught,
        ):
            client.generate("x")
        assert "--cert-file" in caught.value.hint

    @pytest.mark.parametrize("which", ["unknown authority", "no file"])
    def test_what_it_cannot_trust_or_read_is_told(self, address, tmp_path, stranger, authority, which):
        if which == "no file":
            with (
                EdgeClient(
                    address, ca_file=authority.file, cert_file=tmp_path / "gone", cert_key_file="x"
                ) as client,
                pytest.raises(Usage, match="gone"),
            ):
                client.generate("x")
        else:
            with (
                EdgeClient(address, ca_file=stranger.file) as client,
                pytest.raises(Unreachable, match="certificate verify failed") as caught,
            ):
                client.generate("x")
            assert "--ca-file" in caught.value.hint


def test_a_device_of_another_authority_does_not_get_in(tmp_path, authority, stranger):
    certificate, key = stranger.issue("intruder")
    with Broker(tmp_path, *asks_for_certificates(authority), tls=authority.server()) as broker:
        client = paho.Client(paho.CallbackAPIVersion.VERSION2)
        client.tls_set(str(authority.file), str(certificate), str(key))
        with contextlib.suppress(OSError):  # the refusal may come with the handshake or behind it
            client.connect("localhost", broker.port)
            while client.loop(1) == paho.MQTT_ERR_SUCCESS:
                assert not client.is_connected()
        assert not client.is_connected()
