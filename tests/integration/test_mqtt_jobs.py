"""Jobs over a real broker to the real daemon: fetch, serve another, measure, across cancels and kills."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import shutil
import signal

import pytest

from edgectl.models.store import Store
from edged import __version__
from edged.maintenance.places import stores
from tests.fixtures.file_server import sends, serving, stalls_after
from tests.fixtures.gguf_files import model_bytes
from tests.integration.broker import MOSQUITTO, Broker
from tests.integration.mqtt_peer import Peer, until
from tests.integration.test_mqtt import ROOT, VERSIONS
from tests.kit.daemon import Daemon, alive
from tests.kit.model import smollm2
from tests.kit.service import fake_model, fake_tree
from tests.kit.stored_models import store_fake

pytestmark = [pytest.mark.mosquitto, pytest.mark.skipif(not MOSQUITTO, reason="mosquitto is not installed")]

FILE = model_bytes() + bytes(3 << 20)
SHA256 = hashlib.sha256(FILE).hexdigest()
LONG_S = 60.0  # a child has to start, which takes seconds on a busy machine


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "EDGED_STATE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")


@contextlib.asynccontextmanager
async def box(tmp_path, broker, version="5", *, model=None, mqtt=None, memory=None, selftest=False, **script):
    """A daemon that takes jobs, and a peer that hears all of it."""
    tree = fake_tree(
        fake_model(tmp_path, **script),
        engine={"selftest": selftest},
        memory=memory or {},
        mqtt={"enabled": True, "port": broker.port, "version": version, "jobs": True, **(mqtt or {})},
    )
    tree["model"] |= model or {}
    edged = Daemon(tree, tmp_path)
    async with Peer(broker.port, "#", version=version) as peer:
        try:
            await asyncio.to_thread(edged.start)
            await until(lambda: "online" in peer.texts(f"{ROOT}/status"), "online")
            yield edged, peer
        finally:
            await asyncio.to_thread(edged.stop)


def topic(job_type, job_id):
    return f"{ROOT}/job/{job_type}/{job_id}"


def states(peer, where):
    """What the box said on a job's topic, without the orders of others."""
    return [json.loads(one.payload) for one in peer.on(where) if b'"ts"' in one.payload]


async def over(peer, where, deadline_s=LONG_S):
    """The last word about a job."""
    await until(lambda: states(peer, where) and states(peer, where)[-1]["state"] in {"successful", "failed"},
                f"the end of {where}", deadline_s)  # fmt: skip
    return states(peer, where)[-1]


def told(peer, where):
    """The names of the states of a job, in order, each once."""
    return list(dict.fromkeys(one["state"] for one in states(peer, where)))


async def ask(peer, text, request_id):
    peer.send(f"{ROOT}/request/me/chat", {"id": request_id, "prompt": text})
    where = f"{ROOT}/response/me/chat"
    await until(
        lambda: any(one["id"] == request_id for one in peer.documents(where)), f"answer {request_id}", LONG_S
    )
    return next(one for one in peer.documents(where) if one["id"] == request_id)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_file_is_pulled_with_progress_and_its_states_are_retained_until_cleared(tmp_path, version):
    async def scenario(broker, server):
        async with box(tmp_path, broker, version) as (edged, peer):
            where = topic("pull", "p1")
            order = {"state": "init", "url": server.url(), "sha256": SHA256, "name": "house"}
            peer.send(where, order, retain=True)
            done = await over(peer, where)
            assert told(peer, where) == ["init", "executing", "successful"]
            assert done["model"] == "house:Q8_0"
            assert (done["progress"], done["sha256"], done["size_bytes"]) == (1.0, SHA256, len(FILE))
            (ref,) = Store(stores(edged.state)[1]).list()
            assert ref.sha256 == SHA256
            requests = len(server.requests)
            peer.send(where, order)
            async with Peer(broker.port, "#", version=version) as late:
                await until(lambda: late.on(where), "the state is retained")
                assert late.on(where)[0].retain
                assert states(late, where)[0]["state"] == "successful"
            peer.send(where, b"", retain=True)
            peer.send(topic("pull", "p2"), order)
            assert (await over(peer, topic("pull", "p2")))["fresh"] is False
            assert len(server.requests) == requests
            async with Peer(broker.port, "#", version=version) as late:
                await until(lambda: late.on(topic("pull", "p2")), "the other state is retained")
                assert not late.on(where)

    with Broker(tmp_path) as broker, serving(FILE) as server:
        asyncio.run(scenario(broker, server))


def test_what_is_wrong_with_a_pull_is_its_error(tmp_path):
    async def scenario(broker, server):
        async with box(tmp_path, broker) as (edged, peer):
            cases = {
                "hash": ({"url": server.url(), "sha256": "1" * 64}, "integrity"),
                "name": ({"model": "no-such-model"}, "not_found"),
                "field": ({"model": "a", "colour": "red"}, "bad_request"),
                "json": (b"{", "bad_request"),
            }
            for job_id, (order, _) in cases.items():
                peer.send(topic("pull", job_id), order)
            for job_id, (_, code) in cases.items():
                failed = await over(peer, topic("pull", job_id))
                assert failed["state"] == "failed"
                assert failed["error"]["code"] == code, failed
                assert failed["error"]["message"]
            assert "colour" in states(peer, topic("pull", "field"))[-1]["error"]["message"]
            assert Store(stores(edged.state)[1]).list() == ()

    with Broker(tmp_path) as broker, serving(FILE) as server:
        asyncio.run(scenario(broker, server))


def test_an_update_changes_nothing_and_says_which_version_runs_and_what_to_do_on_the_box(tmp_path):
    """The code belongs to root and is read-only for the service, so that who breaks in cannot stay."""

    async def scenario(broker):
        async with box(tmp_path, broker) as (edged, peer):
            pid = edged.status()["pid"]
            peer.send(topic("update", "u1"), {"state": "init"}, retain=True)
            failed = await over(peer, topic("update", "u1"))
            assert failed["error"]["code"] == "unsupported"
            assert f"edged {__version__} runs here" in failed["error"]["message"]
            assert "edgectl install" in failed["error"]["hint"]
            peer.send(topic("update", "u2"), {"state": "init", "version": "9.9"}, retain=True)
            refused = await over(peer, topic("update", "u2"))
            assert (refused["error"]["code"], "version" in refused["error"]["message"]) == (
                "bad_request",
                True,
            )
            assert edged.status()["pid"] == pid

    with Broker(tmp_path) as broker:
        asyncio.run(scenario(broker))


def test_a_disk_without_room_for_the_file_is_said_before_it_is_fetched(tmp_path):
    async def scenario(broker, server):
        server.default = sends(b"", Content_Length=shutil.disk_usage(tmp_path).free + (1 << 30))
        async with box(tmp_path, broker) as (edged, peer):
            peer.send(topic("pull", "p1"), {"url": server.url(), "sha256": SHA256})
            failed = await over(peer, topic("pull", "p1"))
            assert failed["error"]["code"] == "no_space", failed
            assert "MiB" in failed["error"]["message"] or "GiB" in failed["error"]["message"]
            assert Store(stores(edged.state)[1]).list() == ()

    with Broker(tmp_path) as broker, serving(FILE) as server:
        asyncio.run(scenario(broker, server))


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:  # noqa: PTH123
        return {int(one) for one in file.read().split()}


def test_a_pull_is_cancelled_and_its_child_is_gone(tmp_path):
    async def scenario(broker, server):
        server.default = stalls_after(1 << 20)
        async with box(tmp_path, broker) as (edged, peer):
            before = children(edged.pid)
            where = topic("pull", "p1")
            peer.send(where, {"url": server.url(), "sha256": SHA256, "name": "house"})
            await until(lambda: server.requests, "the download to begin", LONG_S)
            begun = children(edged.pid) - before
            assert begun
            peer.send(where, {"state": "cancelled"})
            assert (await over(peer, where))["error"]["code"] == "cancelled"
            await until(lambda: not any(alive(pid) for pid in begun), "the child to be gone")
            peer.send(topic("bench", "next"), {})
            assert (await over(peer, topic("bench", "next")))["state"] == "successful"

    with Broker(tmp_path) as broker, serving(FILE) as server:
        asyncio.run(scenario(broker, server))


def test_a_pull_goes_on_after_the_daemon_was_killed(tmp_path):
    async def scenario(broker, server):
        server.script = [stalls_after(1 << 20)]
        async with box(tmp_path, broker) as (edged, peer):
            where = topic("pull", "p1")
            before = children(edged.pid)
            peer.send(where, {"url": server.url(), "sha256": SHA256, "name": "house"})
            await until(lambda: server.requests, "the download to begin", LONG_S)
            await until(lambda: "executing" in told(peer, where), "executing")
            orphans = children(edged.pid) - before
            edged.signal(signal.SIGKILL)
            await asyncio.to_thread(edged.wait)
            server.finished.set()
            await until(lambda: not any(alive(pid) for pid in orphans), "the child to notice", LONG_S)
            await asyncio.to_thread(edged.start)
            done = await over(peer, where)
            assert (done["state"], done["model"]) == ("successful", "house:Q8_0")

    with Broker(tmp_path) as broker, serving(FILE) as server:
        asyncio.run(scenario(broker, server))


@pytest.mark.parametrize("version", VERSIONS)
def test_another_model_is_served_without_losing_a_request_and_stays_over_restarts(tmp_path, version):
    async def scenario(broker):
        async with box(tmp_path, broker, version, answer="old", step_s=0.02) as (edged, peer):
            store_fake(edged.state, "other", answer="new")
            for number in range(3):
                peer.send(f"{ROOT}/request/me/chat", {"id": f"r{number}", "prompt": "who?"})
            peer.send(topic("switch", "s1"), {"model": "other"})
            await until(lambda: "executing" in told(peer, topic("switch", "s1")), "executing")
            for number in range(3, 6):
                peer.send(f"{ROOT}/request/me/chat", {"id": f"r{number}", "prompt": "who?"})
            done = await over(peer, topic("switch", "s1"))
            assert (done["state"], done["model"], done["before"]) == ("successful", "other:FAKE", "fake")
            answers = f"{ROOT}/response/me/chat"
            await until(lambda: len(peer.on(answers)) >= 6, "all answers")
            assert sorted(one["id"] for one in peer.documents(answers)) == [f"r{n}" for n in range(6)]
            assert all(one["ok"] for one in peer.documents(answers))
            assert (await ask(peer, "who now?", "after"))["text"] == "new"
            await until(lambda: peer.documents(f"{ROOT}/info")[-1]["model"]["name"] == "other", "info")
            await asyncio.to_thread(edged.stop)
            await asyncio.to_thread(edged.start)
            assert (await ask(peer, "who now?", "restarted"))["text"] == "new"
            assert edged.status()["model"]["name"] == "other"
            peer.send(topic("switch", "s2"), {"model": "configured"})
            assert (await over(peer, topic("switch", "s2")))["model"] == "fake"
            assert (await ask(peer, "who now?", "back"))["text"] == "old"
            assert not (edged.state / "switched.json").exists()

    with Broker(tmp_path) as broker:
        asyncio.run(scenario(broker))


def test_a_switch_that_cannot_be_changes_nothing_and_says_why(tmp_path):
    async def scenario(broker):
        limits = {"budget_mib": 85, "cache_mib": 5}  # of the toy 58 is enough, SmolLM2 takes 110
        async with box(tmp_path, broker, answer="old", memory=limits) as (edged, peer):
            store_fake(edged.state, "bad", load_error="a tensor is missing")
            with smollm2().open("rb") as file:
                big = await asyncio.to_thread(hashlib.file_digest, file, "sha256")
            peer.send(topic("pull", "p1"), {"model": "smollm2-135m-instruct"})
            assert (await over(peer, topic("pull", "p1")))["sha256"] == big.hexdigest()
            pid = edged.status()["worker_pid"]
            for job_id, model, code in (
                ("large", "smollm2-135m-instruct", "nothing_fits"),
                ("none", "nobody", "not_found"),
            ):
                peer.send(topic("switch", job_id), {"model": model})
                failed = await over(peer, topic("switch", job_id))
                assert failed["error"]["code"] == code, failed
            assert edged.status()["worker_pid"] == pid
            peer.send(topic("switch", "bad"), {"model": "bad"})
            failed = await over(peer, topic("switch", "bad"))
            assert failed["error"]["code"] == "model"
            assert "a tensor is missing" in failed["error"]["message"]
            assert (await ask(peer, "who?", "1"))["text"] == "old"
            assert not (edged.state / "switched.json").exists()

    with Broker(tmp_path) as broker:
        asyncio.run(scenario(broker))


def test_a_switch_that_was_cut_off_by_a_kill_is_told_as_failed(tmp_path):
    async def scenario(broker):
        async with box(tmp_path, broker, answer="old") as (edged, peer):
            store_fake(edged.state, "slow", answer="new", load_s=30.0)
            peer.send(topic("switch", "s1"), {"model": "slow"}, retain=True)
            await until(lambda: edged.status()["engine"] == "loading", "the new model to load", LONG_S)
            edged.signal(signal.SIGKILL)
            await asyncio.to_thread(edged.wait)
            await asyncio.to_thread(edged.start)
            failed = await over(peer, topic("switch", "s1"))
            assert failed["error"]["code"] == "interrupted"
            assert (await ask(peer, "who?", "1"))["text"] == "old"

    with Broker(tmp_path) as broker:
        asyncio.run(scenario(broker))


def test_a_state_that_the_box_has_forgotten_does_not_stay_executing(tmp_path):
    async def scenario(broker):
        where = topic("pull", "long-ago")
        async with Peer(broker.port, "none") as before:
            before.send(where, {"state": "executing", "model": "m", "ts": 1}, retain=True)
            async with box(tmp_path, broker) as (_edged, peer):
                await until(lambda: told(peer, where)[-1:] == ["failed"], "failed")
                assert states(peer, where)[-1]["error"]["code"] == "interrupted"

    with Broker(tmp_path) as broker:
        asyncio.run(scenario(broker))


def test_a_bench_stands_beside_what_the_plan_promised(tmp_path):
    async def scenario(broker):
        async with box(tmp_path, broker, step_s=0.01) as (edged, peer):
            store_fake(edged.state, "other", step_s=0.01)
            peer.send(topic("bench", "b1"), {})
            done = await over(peer, topic("bench", "b1"))
            assert done["state"] == "successful"
            assert [one["sequences"] for one in done["batches"]] == [1, 4]
            assert done["decode_tps"] > 0
            assert done["prefill_tps"] > 0
            assert done["predicted"] is None
            peer.send(topic("switch", "s1"), {"model": "other"})
            await over(peer, topic("switch", "s1"))
            peer.send(topic("bench", "b2"), {})
            assert (await over(peer, topic("bench", "b2")))["predicted"]["decode_tps"] > 0

    with Broker(tmp_path) as broker:
        asyncio.run(scenario(broker))


def test_a_bench_beside_requests_is_refused(tmp_path):
    async def scenario(broker):
        async with box(tmp_path, broker, step_s=0.1) as (edged, peer):
            peer.send(f"{ROOT}/request/me/chat", {"id": "1", "prompt": "a long text to repeat"})
            await until(lambda: edged.status()["running"], "a request to run")
            peer.send(topic("bench", "b1"), {})
            failed = await over(peer, topic("bench", "b1"))
            assert failed["error"]["code"] == "busy"
            assert failed["error"]["retry_after_s"] > 0

    with Broker(tmp_path) as broker:
        asyncio.run(scenario(broker))


def test_jobs_are_off_unless_switched_on_and_only_allowed_types_are_done(tmp_path):
    async def scenario(broker):
        async with box(tmp_path, broker, mqtt={"jobs": False}) as (edged, peer):
            peer.send(topic("bench", "b1"), {})
            assert (await ask(peer, "hello", "1"))["ok"]
            assert not states(peer, topic("bench", "b1"))
            assert not (edged.state / "jobs.json").exists()
        async with box(tmp_path, broker, mqtt={"job_types": ["bench"]}) as (_edged, peer):
            peer.send(topic("pull", "p1"), {"model": "smollm2-135m-instruct"})
            assert (await over(peer, topic("pull", "p1")))["error"]["code"] == "unsupported"
            peer.send(topic("bench", "b2"), {})
            assert (await over(peer, topic("bench", "b2")))["state"] == "successful"

    with Broker(tmp_path) as broker:
        asyncio.run(scenario(broker))


def test_a_real_model_is_pulled_served_and_answers(tmp_path):
    async def scenario(broker):
        model = {"path": str(smollm2()), "backend": "llama", "name": "small", "context": 512, "slots": 1}
        async with box(tmp_path, broker, model=model, selftest=True) as (edged, peer):
            first = await ask(peer, "What is the capital of France?", "1")
            peer.send(topic("pull", "p1"), {"model": "smollm2-135m-instruct"})
            assert (await over(peer, topic("pull", "p1")))["state"] == "successful"
            peer.send(topic("switch", "s1"), {"model": "smollm2-135m-instruct"})
            done = await over(peer, topic("switch", "s1"), 120.0)
            assert done["model"] == "smollm2-135m-instruct:Q4_1", done
            assert edged.status()["model"]["slots"] != 1
            second = await ask(peer, "What is the capital of France?", "2")
            assert first["text"]
            assert second["text"]

    with Broker(tmp_path) as broker:
        asyncio.run(scenario(broker))
