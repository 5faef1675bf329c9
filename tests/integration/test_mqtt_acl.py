"""The ready files for mosquitto, on a real one: who may say and hear what."""

from __future__ import annotations

import asyncio
import re
import subprocess
import threading
from typing import Self

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from edgectl.client import EdgeClient
from edgectl.resources import data_dir
from tests.integration.broker import MOSQUITTO, Broker, free_port
from tests.integration.mqtt_peer import Peer, until
from tests.integration.scripted_service import ScriptedService
from tests.integration.test_mqtt import ROOT, VERSIONS, serving
from tests.integration.test_pool import Box, member
from tests.kit.certificates import Authority
from tests.kit.daemon import wait_until

pytestmark = [pytest.mark.mosquitto, pytest.mark.skipif(not MOSQUITTO, reason="mosquitto is not installed")]

ACL = data_dir("profiles/mosquitto") / "edged.acl"
PASSWORD = "pw"
USERS = ("edged", "homeassistant", "operator", "cam", "door")

# Topic → who may publish on it · who hears what is published there.
RIGHTS: dict[str, tuple[str, str]] = {
    "edged/pi/request/cam/chat": ("edged operator cam", "edged operator"),
    "edged/pool/request/cam/chat": ("edged operator cam", "edged operator"),
    "edged/pi/request/homeassistant/chat": ("edged operator homeassistant", "edged operator"),
    "edged/pi/cancel/cam": ("edged operator cam", "edged operator"),
    "edged/pi/response/cam/chat": ("edged operator", "edged operator cam"),
    "edged/pool/response/cam/chat": ("edged operator", "edged operator cam"),
    "edged/pool/stream/cam": ("edged operator", "edged operator cam"),
    "edged/pool/cancel/cam": ("edged operator cam", "edged operator"),
    "edged/pool/box/hall": ("edged operator", "edged operator homeassistant cam door"),
    "edged/pool/give/hall/request/cam/chat": ("edged operator", "edged operator"),
    "edged/pool/spare/0a1b2c3d": ("edged operator", "edged operator"),
    "edged/pool/free/0a1b2c3d": ("edged operator", "edged operator"),
    "edged/pi/response/cam/rr": ("edged operator", "edged operator cam"),
    "edged/pi/response/door/chat": ("edged operator", "edged operator door"),
    "edged/pi/response/homeassistant/chat": ("edged operator", "edged operator homeassistant"),
    "edged/pi/stream/cam": ("edged operator", "edged operator cam"),
    "edged/pi/status": ("edged operator", "edged operator homeassistant cam door"),
    "edged/pi/info": ("edged operator", "edged operator homeassistant cam door"),
    "edged/pi/health": ("edged operator", "edged operator homeassistant cam door"),
    "edged/pi/ask": ("edged operator", "edged operator"),
    "edged/pi/answer": ("edged operator", "edged operator"),
    "edged/pi/job/pull/1": ("edged operator", "edged operator"),
    "edged/pi/model": ("edged operator homeassistant", "edged operator homeassistant"),
    "edged/pi/last_answer": ("edged operator", "edged operator homeassistant"),
    "homeassistant/device/edged_pi/config": ("edged homeassistant", "operator homeassistant"),
    "homeassistant/status": ("homeassistant", "edged operator homeassistant"),
    "elsewhere": ("", ""),
}


class User:
    """A client that knows whether the broker took what it published (MQTT 5)."""

    def __init__(self, port: int, name: str, user: str = "") -> None:
        self.heard: set[str] = set()
        self._took: dict[int, bool] = {}
        self._ready = threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, name, protocol=paho.MQTTv5)
        self._client.username_pw_set(user or name, PASSWORD)
        self._client.on_connect = lambda client, *_: client.subscribe([("#", 1)])
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.on_message = lambda _c, _u, message: self.heard.add(message.topic)
        self._client.on_publish = lambda _c, _u, mid, reason, _p: self._took.update(
            {mid: not reason.is_failure}
        )
        self._client.connect("127.0.0.1", port)

    def __enter__(self) -> Self:
        self._client.loop_start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def publish(self, topic: str) -> bool:
        """Whether the broker took a message on ``topic``."""
        mid = self._client.publish(topic, "x", qos=1).mid
        wait_until(lambda: mid in self._took, f"the answer of the broker for {topic}", 10)
        return self._took[mid]


@pytest.fixture
def broker(tmp_path):
    passwords = tmp_path / "passwords"
    for number, name in enumerate(USERS):
        create = ["-c"] if number == 0 else []
        subprocess.run(["mosquitto_passwd", *create, "-b", passwords, name, PASSWORD], check=True)
    passwords.chmod(0o644)
    rules = ("allow_anonymous false", f"password_file {passwords}", f"acl_file {ACL}")
    with Broker(tmp_path, *rules) as running:
        yield running


def test_each_user_may_publish_what_the_table_says_and_nothing_else(broker):
    for name in USERS:
        with User(broker.port, name) as user:
            taken = {topic for topic in RIGHTS if user.publish(topic)}
        assert taken == {topic for topic, (writers, _) in RIGHTS.items() if name in writers.split()}, name


def test_each_user_hears_what_the_table_says_and_nothing_else(broker):
    last = "edged/last/status"  # all hear it, so whoever heard it has heard everything before
    for name in USERS:
        with (
            User(broker.port, name) as user,
            User(broker.port, "operator-tool", user="operator") as operator,
            User(broker.port, "assistant-tool", user="homeassistant") as assistant,
        ):
            for topic in RIGHTS:
                assert operator.publish(topic) or assistant.publish(topic) or topic == "elsewhere"
            operator.publish(last)
            wait_until(lambda user=user: last in user.heard, "the last message", 10)
        expected = {topic for topic, (_, readers) in RIGHTS.items() if name in readers.split()}
        assert user.heard == {*expected, last}, name


@pytest.mark.parametrize("version", VERSIONS)
def test_a_box_serves_devices_that_cannot_reach_into_each_other(broker, tmp_path, version):
    secret = tmp_path / "secret"
    secret.write_text(PASSWORD)

    async def scenario():
        service = ScriptedService()
        config = {"username": "edged", "password_file": str(secret), "version": version}
        async with (
            serving(broker.port, service, **config) as mqtt,
            Peer(broker.port, "#", version=version, user=("cam", PASSWORD)) as cam,
            Peer(broker.port, "#", version=version, user=("door", PASSWORD)) as door,
        ):
            await until(lambda: "online" in door.texts(f"{ROOT}/status"), "presence is for everybody")
            assert mqtt.condition() is None
            door.send(f"{ROOT}/request/cam/chat", {"id": "forged", "prompt": "x"})
            door.send(f"{ROOT}/status", "offline", retain=True)
            door.send(f"{ROOT}/info", "{}", retain=True)
            cam.send(f"{ROOT}/request/cam/chat", {"id": "1", "prompt": "mine", "stream": True})
            door.send(f"{ROOT}/request/door/chat", {"id": "2", "prompt": "hers"})
            assert (await cam.wait(f"{ROOT}/response/cam/chat"))[0]["text"] == "echo: mine"
            assert (await door.wait(f"{ROOT}/response/door/chat"))[0]["text"] == "echo: hers"
            await until(lambda: len(cam.on(f"{ROOT}/stream/cam")) >= 3)
            assert {request.id for request in service.seen} == {"1", "2"}
            for peer, other in ((cam, "door"), (door, "cam")):
                assert not [one for one in peer.heard if f"/{other}" in one.topic]
                assert peer.texts(f"{ROOT}/status")[-1] == "online"

    asyncio.run(scenario())


def test_a_pool_serves_devices_and_edgectl_that_have_users_of_their_own(broker, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text(PASSWORD)
    box = {"username": "edged", "password_file": str(secret)}

    def ask():
        url = f"mqtt://cam@127.0.0.1:{broker.port}/edged/pool"
        with EdgeClient(url, password=PASSWORD, client="cam") as client:
            return client.generate("is it raining?").text

    async def scenario():
        busy = Box()
        busy.gate.clear()  # what it has begun it never ends, so that the rest must be handed on
        async with (
            member(broker, "a", busy, **box) as (_, at_busy),
            member(broker, "b", **box) as (_, at_free),
            Peer(broker.port, "#", user=("door", PASSWORD)) as door,
        ):
            await until(lambda: at_busy.pool.boxes == at_free.pool.boxes == 1, "the boxes know each other")
            assert not [one for one in (at_busy.condition(), at_free.condition()) if one]
            for number in range(12):
                door.send("edged/pool/request/door/chat", {"id": str(number), "prompt": "q"})
            await door.wait("edged/pool/response/door/chat", 10)
            assert at_busy.pool.handed_on > 0
            assert await asyncio.to_thread(ask) == "echo: is it raining?"
            assert not [one for one in door.heard if "/cam" in one.topic]
            assert {one.topic for one in door.heard if "/box/" in one.topic} == {
                "edged/pool/box/a",
                "edged/pool/box/b",
            }
            busy.gate.set()
            await door.wait("edged/pool/response/door/chat", 12)

    asyncio.run(scenario())


def test_the_ready_configuration_starts_a_broker_and_a_certificate_is_a_user(tmp_path):
    """The file as it is, but for its paths and ports."""
    authority = Authority(tmp_path)
    certificate, key = authority.server()
    passwords = tmp_path / "passwd"
    subprocess.run(["mosquitto_passwd", "-b", "-c", passwords, "edged", PASSWORD], check=True)
    passwords.chmod(0o644)
    ports = {"1883": free_port(), "8883": free_port()}
    text = (ACL.parent / "edged.conf").read_text()
    for old, new in {
        "/etc/mosquitto/edged.passwd": passwords,
        "/etc/mosquitto/edged.acl": ACL,
        "/etc/mosquitto/certs/ca.pem": authority.file,
        "/etc/mosquitto/certs/broker.pem": certificate,
        "/etc/mosquitto/certs/broker.key": key,
    }.items():
        assert old in text
        text = text.replace(old, str(new))
    text = re.sub(
        r"^listener (\d+).*", lambda found: f"listener {ports[found[1]]} 127.0.0.1", text, flags=re.MULTILINE
    )
    config = tmp_path / "edged.conf"
    config.write_text(f"persistence_location {tmp_path}/\nuser root\n{text}")
    log = (tmp_path / "log").open("wb")
    broker = subprocess.Popen([MOSQUITTO, "-c", config], stdout=log, stderr=log)
    try:
        device, device_key = authority.issue("cam")
        wait_until(lambda: b"running" in (tmp_path / "log").read_bytes(), "the broker", 10)
        for topic, code in (("edged/pi/request/cam/chat", 0), ("edged/pi/request/door/chat", 0)):
            done = subprocess.run(
                ["mosquitto_pub", "-h", "localhost", "-p", str(ports["8883"]), "--cafile", authority.file,
                 "--cert", device, "--key", device_key, "-V", "5", "-q", "1", "-t", topic, "-m", "x", "-d"],
                check=False, capture_output=True, text=True, timeout=20,
            )  # fmt: skip
            assert done.returncode == code
            assert ("Not authorized" in done.stdout + done.stderr) == ("door" in topic)
        refused = subprocess.run(
            ["mosquitto_pub", "-h", "localhost", "-p", str(ports["8883"]), "--cafile", authority.file,
             "-t", "x", "-m", "x"],
            check=False, capture_output=True, timeout=20,
        )  # fmt: skip
        assert refused.returncode != 0
    finally:
        broker.terminate()
        broker.wait(10)
        log.close()


def test_edgectl_prints_the_files():
    from click.testing import CliRunner

    from edgectl.cli import cli

    for name in ("acl", "conf"):
        done = CliRunner().invoke(cli, ["config", "mosquitto", name])
        assert done.exit_code == 0
        assert done.output == (ACL.parent / f"edged.{name}").read_text()
