"""What the server gives of the web page, to whom, and with which headers."""

from __future__ import annotations

import asyncio
import re

import pytest
from prometheus_client.parser import text_string_to_metric_families

from edged.transports.http.page_files import FOLDER, TYPES
from tests.kit.http_serving import ScriptedService, chat, serving
from tests.kit.keys import put_keys
from tests.kit.service import fake_model, fake_tree, running_service

BROWSER = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
NAMES = sorted(path.name for path in FOLDER.iterdir())


@pytest.fixture
def keys_file(tmp_path):
    return str(put_keys(tmp_path / "keys.toml"))


def test_a_browser_gets_the_page_and_everybody_else_the_index():
    async def scenario():
        async with serving() as box, box.client() as client:
            page = await client.get("/", headers=BROWSER)
            assert page.headers["content-type"] == "text/html; charset=utf-8"
            assert page.text.startswith("<!doctype html>")
            for accept in ("*/*", "application/json", ""):
                index = await client.get("/", headers={"accept": accept})
                assert index.json()["name"] == "edged"
            head = await client.head("/", headers=BROWSER)
            assert (head.status_code, head.content) == (200, b"")

    asyncio.run(scenario())


def test_every_file_of_the_page_comes_with_its_type_and_a_strict_policy():
    async def scenario():
        async with serving() as box, box.client() as client:
            for name in NAMES:
                path = "/" if name == "index.html" else f"/page/{name}"
                answer = await client.get(path, headers=BROWSER)
                assert answer.status_code == 200
                assert answer.content == (FOLDER / name).read_bytes()
                assert answer.headers["content-type"].startswith(TYPES["." + name.rsplit(".")[-1]])
                policy = answer.headers["content-security-policy"]
                assert policy.startswith("default-src 'self'; ")
                assert "unsafe" not in policy
                assert "http" not in policy
                assert answer.headers["x-content-type-options"] == "nosniff"
                assert answer.headers["cache-control"] == "no-store"

    asyncio.run(scenario())


def test_with_a_key_the_page_is_open_and_everything_it_shows_is_not(keys_file):
    async def scenario():
        async with serving(keys_file=keys_file) as box, box.client() as client:
            assert (await client.get("/", headers=BROWSER)).status_code == 200
            assert (await client.get("/page/app.js")).status_code == 200
            for path in ("/", "/status", "/info", "/metrics", "/v1/models", "/openapi.json"):
                assert (await client.get(path)).status_code == 401, path
            answer = await client.get("/status", headers=BROWSER)
            assert answer.status_code == 401

    asyncio.run(scenario())


def test_the_page_stands_behind_the_guards_of_host_and_origin():
    async def scenario():
        async with serving() as box, box.client() as client:
            stale = await client.get("/", headers=BROWSER | {"host": "evil.example"})
            assert stale.status_code == 421
            foreign = await client.get("/page/app.js", headers={"origin": "http://evil.example"})
            assert foreign.status_code == 403

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "path", ["/page", "/page/", "/page/none.js", "/page/index.html", "/page/..%2fauth.py", "/page/../auth.py"]
)
def test_what_is_not_part_of_the_page_is_no_route(path):
    async def scenario():
        async with serving() as box:
            host = f"{box.host}:{box.port}"
            said = await box.raw(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            assert b" 404 " in said.splitlines()[0]
            assert b"not_found" in said

    asyncio.run(scenario())


def test_the_page_takes_no_other_method():
    async def scenario():
        async with serving() as box, box.client() as client:
            assert (await client.post("/page/app.js", headers=BROWSER)).status_code == 404
            assert (await client.post("/", headers=BROWSER)).status_code == 405

    asyncio.run(scenario())


def test_nothing_in_the_page_is_inline_or_from_elsewhere():
    html = (FOLDER / "index.html").read_text()
    assert not re.search(r"<style|style=|\son\w+=|javascript:", html)
    assert re.findall(r"<script[^>]*>(.*?)</script>", html, re.DOTALL) == [""]
    for name in NAMES:
        for address in re.findall(r"(?:src|href|from|url)[=( ]+[\"']([^\"']+)", (FOLDER / name).read_text()):
            assert not re.match(r"[a-z]+:|//", address), (name, address)
    assert sum((FOLDER / name).stat().st_size for name in NAMES) < 65_536


def test_metrics_of_a_working_box_are_read_by_prometheus_and_count_what_was_done(tmp_path):
    async def scenario():
        tree = fake_tree(fake_model(tmp_path, answer="hello"))
        async with running_service(tree, tmp_path / "state") as engine:
            await engine.ready()
            async with serving(service=engine.service) as box, box.client() as client:
                assert (await client.post("/v1/chat/completions", json=chat())).status_code == 200
                assert (await client.post("/v1/chat/completions", json=chat(max_tokens=0))).status_code == 400
                answer = await client.get("/metrics")
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        found = {
            (sample.name, *sorted(sample.labels.values())): sample.value
            for family in text_string_to_metric_families(answer.text)
            for sample in family.samples
        }
        assert found["edged_requests_total", "finished", "stop"] == 1
        assert found["edged_requests_total", "bad_request", "refused"] == 1
        assert found["edged_first_token_duration_seconds_count",] == 1
        assert found["edged_completion_tokens_total",] >= 5
        assert found["edged_state", "ready"] == 1

    asyncio.run(scenario())


def test_a_scrape_of_a_box_that_is_not_ready_still_tells():
    async def scenario():
        async with serving(service=ScriptedService(ready=False)) as box, box.client() as client:
            text = (await client.get("/metrics")).text
            assert 'edged_state{state="degraded"} 1.0' in text
            assert 'edged_condition{code="engine_broken",severity="error"} 1.0' in text

    asyncio.run(scenario())
