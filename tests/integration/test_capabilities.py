"""What a box says that its model can do is what the model can do: real models, and a pool of two of them."""

from __future__ import annotations

import asyncio
import hashlib

import ollama
import pytest

from tests.integration.broker import MOSQUITTO, Broker
from tests.integration.mqtt_peer import Peer, until
from tests.kit.daemon import running_daemon
from tests.kit.model import smollm2_tree
from tests.kit.random_bert import random_bert
from tests.kit.random_model import THINKING_TEMPLATE, random_model
from tests.kit.service import fake_tree, running_service

pytestmark = pytest.mark.model

POOL = "edged/pool"
ASKED = f"{POOL}/request/esp/chat"
ANSWERED = f"{POOL}/response/esp/chat"


def random_tree(path, name, **sections):
    """A configuration that serves a small model with random weights."""
    model = {"backend": "llama", "name": name, "context": 256, "slots": 2, **sections.pop("model", {})}
    return fake_tree(path, model=model, limits={"max_tokens": 16, "default_max_tokens": 16}, **sections)


def info_of(tree, folder):
    """What a real service says of itself once the model of ``tree`` is loaded."""

    async def scenario():
        async with running_service(tree, folder / "state") as box:
            before = box.service.info()
            await box.ready()
            return before, box.service.info()

    return asyncio.run(scenario())


def test_a_model_whose_template_opens_a_thought_thinks_whatever_its_configuration_says(tmp_path):
    path = random_model(tmp_path, template=THINKING_TEMPLATE)
    _, info = info_of(random_tree(path, "thinker"), tmp_path)
    assert info.model.thinks
    assert {"chat", "thinking"} <= set(info.features)
    assert "vision" not in info.features


def test_a_model_whose_template_knows_no_thought_does_not_think(tmp_path):
    tree = smollm2_tree()
    tree["model"]["sampling_thinking"] = {"temperature": 0.6}  # as it is configured, until it is loaded
    before, info = info_of(tree, tmp_path)
    assert before.model.thinks
    assert not info.model.thinks
    assert "thinking" not in info.features
    assert "vision" not in info.features


def test_a_model_for_embeddings_does_not_think(tmp_path):
    tree = random_tree(random_bert(tmp_path), "bert", model={"embeddings": True, "context": 128})
    _, info = info_of(tree, tmp_path)
    assert not info.model.thinks
    assert info.features == ("embed", "cancel")


def test_the_digest_of_the_file_is_told_where_it_is_known_and_ollama_is_shown_it(tmp_path):
    path = random_model(tmp_path, template=THINKING_TEMPLATE)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    for known, shown in ((digest, digest), ("", "0" * 64)):
        folder = tmp_path / f"box-{len(known)}"
        folder.mkdir()
        tree = random_tree(path, "thinker", model={"sha256": known})
        with running_daemon(tree, folder) as daemon, ollama.Client(daemon.url, timeout=60) as client:
            assert daemon.status()["model"].get("sha256", "") == known
            assert [one.digest for one in client.list().models] == [shown]
            assert [one.digest for one in client.ps().models] == [shown]
            assert client.show("thinker").capabilities == ["completion", "tools", "thinking"]


@pytest.mark.mosquitto
@pytest.mark.skipif(not MOSQUITTO, reason="mosquitto is not installed")
def test_in_a_pool_thoughts_come_from_the_box_whose_model_thinks_and_pictures_are_refused(tmp_path):
    """Two real daemons with real engines: SmolLM2, which does not think, and a model that does."""

    async def scenario(broker):
        async with Peer(broker.port, "edged/#") as peer:
            for number in range(6):
                peer.send(
                    ASKED, {"id": str(number), "prompt": "Hi", "max_tokens": 4, "needs": {"thinking": True}}
                )
            peer.send(ASKED, {"id": "seen", "prompt": "Hi", "needs": {"vision": True}})
            for node in ("plain", "thinker"):
                where = f"edged/{node}/request/esp/chat"
                peer.send(where, {"id": "seen", "prompt": "Hi", "needs": {"vision": True}})
                peer.send(
                    where, {"id": "thought", "prompt": "Hi", "max_tokens": 4, "needs": {"thinking": True}}
                )
            answers = {one["id"]: one for one in await peer.wait(ANSWERED, 7)}
            assert {answers[str(number)]["node"] for number in range(6)} == {"thinker"}
            assert answers["seen"]["error"]["code"] == "no_box"
            assert "vision" in answers["seen"]["error"]["message"]
            own = {}
            for node in ("plain", "thinker"):
                await peer.wait(f"edged/{node}/response/esp/chat", 2)
                own[node] = {one["id"]: one for one in peer.documents(f"edged/{node}/response/esp/chat")}
                assert own[node]["seen"]["error"]["code"] == "no_box"
            assert own["thinker"]["thought"]["ok"]
            assert own["plain"]["thought"]["error"] == {
                "code": "no_box",
                "message": "this box does not have thinking (a model that thinks first)",
            }

    def mqtt(broker):
        return {"mqtt": {"enabled": True, "port": broker.port}, "pool": {"enabled": True}}

    with Broker(tmp_path) as broker:
        thinker = random_model(tmp_path, template=THINKING_TEMPLATE)
        trees = {
            "plain": smollm2_tree(**mqtt(broker)),
            "thinker": random_tree(thinker, "thinker", **mqtt(broker)),
        }
        for node in trees:
            (tmp_path / node).mkdir()
        with (
            running_daemon(trees["plain"] | {"node": "plain"}, tmp_path / "plain") as plain,
            running_daemon(trees["thinker"] | {"node": "thinker"}, tmp_path / "thinker") as other,
        ):
            for daemon in (plain, other):
                asyncio.run(
                    until(
                        lambda d=daemon: d.status()["mqtt"]["pool"]["boxes"] == 1, "the boxes know each other"
                    )
                )
            asyncio.run(scenario(broker))
