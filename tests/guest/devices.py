"""Devices at the broker of the machine: they ask, hear, publish and order jobs."""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
from typing import TYPE_CHECKING, Any

from tests.guest.machine import CERTIFICATES, NODE, run, until

if TYPE_CHECKING:
    from collections.abc import Iterator


def credentials(user: str) -> tuple[str, ...]:
    return "-V", "5", "-u", user, "-P", f"of-{user}"


def status_topic() -> str:
    """What the broker keeps as the box's status."""
    topic = f"edged/{NODE}/status"
    return run("mosquitto_sub", *credentials("cam"), "-t", topic, "-C", "1", "-W", "2", ok=False).strip()


def wait_online() -> None:
    until(lambda: status_topic() == "online", "the box to be online")


def question(prompt: str, max_tokens: int, **fields: object) -> str:
    return json.dumps({"prompt": prompt, "max_tokens": max_tokens, **fields})


def asking(
    user: str, prompt: str, reply: str = "rr", *, max_tokens: int = 8, tls: bool = False, **fields: object
) -> subprocess.Popen[str]:
    """A device that asks over MQTT and waits for its answer."""
    words = [*credentials(user)]
    if tls:
        files = (CERTIFICATES / "ca.pem", CERTIFICATES / f"{user}.pem", CERTIFICATES / f"{user}.key")
        words = "-V 5 -h localhost -p 8883 --cafile {} --cert {} --key {}".format(*files).split()
    topics = ("-t", f"edged/{NODE}/request/{user}/chat", "-e", f"edged/{NODE}/response/{user}/{reply}")
    return subprocess.Popen(
        ["mosquitto_rr", *words, "-q", "1", *topics, "-m", question(prompt, max_tokens, **fields)],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def answer(asked: subprocess.Popen[str], within_s: float = 60.0) -> dict[str, Any]:
    try:
        told = asked.communicate(timeout=within_s)[0]
    finally:
        asked.kill()
    return json.loads(told)


@contextlib.contextmanager
def hearing(user: str, *topics: str) -> Iterator[list[str]]:
    """What ``user`` hears meanwhile."""
    words = [word for topic in topics for word in ("-t", topic)]
    with subprocess.Popen(
        ["mosquitto_sub", *credentials(user), "-v", *words], stdout=subprocess.PIPE, text=True
    ) as peer:
        heard: list[str] = []
        reader = threading.Thread(target=lambda: heard.extend(peer.stdout))
        reader.start()
        try:
            until(lambda: any("/status " in line for line in heard), "the retained messages", 10)
            yield heard
        finally:
            peer.terminate()
            reader.join()


def publish(user: str, topic: str, payload: str, *options: str) -> int:
    """The reason code with which the broker answers (MQTT 5)."""
    words = ("mosquitto_pub", *credentials(user), "-d", "-q", "1", *options, "-t", topic, "-m", payload)
    return int(run(*words).rpartition("RC:")[2].partition(")")[0])


def job(kind: str, number: str, **order: str) -> dict[str, Any]:
    """How the job ended."""
    topic = f"edged/{NODE}/job/{kind}/{number}"
    assert publish("operator", topic, json.dumps({"state": "init", **order}), "-r") in {0, 16}
    words = ("mosquitto_sub", *credentials("operator"), "-t", topic, "-C", "1", "-W", "5")

    def over() -> dict[str, Any] | None:
        told: dict[str, Any] = json.loads(run(*words))
        return told if told["state"] in {"successful", "failed"} else None

    return until(over, f"the end of {topic}")
