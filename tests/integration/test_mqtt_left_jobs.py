"""Jobs that were open when jobs were switched off end where they are told of, over a real broker."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from edged.maintenance.records import Record
from tests.integration.broker import MOSQUITTO, Broker
from tests.integration.mqtt_peer import Peer, until
from tests.integration.test_mqtt_jobs import box, over, states, topic

pytestmark = [pytest.mark.mosquitto, pytest.mark.skipif(not MOSQUITTO, reason="mosquitto is not installed")]


def test_jobs_that_were_open_when_jobs_were_switched_off_are_told_as_failed_once(tmp_path):
    async def scenario(broker):
        journal = tmp_path / "state" / "jobs.json"
        journal.parent.mkdir()
        open_ones = [Record(type="pull", id="runs", state="executing"), Record(type="switch", id="waits")]
        journal.write_bytes(msgspec.json.encode(open_ones))
        async with box(tmp_path, broker, mqtt={"jobs": False}) as (edged, peer):
            ends = [await over(peer, topic("pull", "runs")), await over(peer, topic("switch", "waits"))]
            assert [end["error"]["code"] for end in ends] == ["interrupted", "unsupported"]
            await until(lambda: not journal.exists(), "the journal to be removed")
            async with Peer(broker.port, "#") as late:
                await until(lambda: states(late, topic("pull", "runs")), "the retained state")
                assert states(late, topic("pull", "runs"))[0]["state"] == "failed"
            assert "Traceback" not in edged.log

    with Broker(tmp_path) as broker:
        asyncio.run(scenario(broker))
