"""What stands before the handlers stands before every one of them: each route meets each attack."""

from __future__ import annotations

import asyncio

import pytest

from tests.kit.http_serving import ScriptedService, chat, every_route, serving
from tests.kit.keys import KEY, put_keys

ROUTES = every_route()
POSTS = [path for method, path in ROUTES if method == "POST"]
OPEN = {"/healthz", "/readyz"}  # probes carry no key, and the files of the page hold nothing of the box
FOREIGN = "http://evil.example"

# name → (request line's target, header lines, status); {path}, {port} and {own} (our host and port) are
# filled in. 400 is h11's answer to what is no HTTP.
ATTACKS: dict[str, tuple[str, tuple[str, ...], int]] = {
    "another host": ("{path}", ("Host: evil.example",), 421),
    "another host with our port": ("{path}", ("Host: evil.example:{port}",), 421),
    "a name that begins with ours": ("{path}", ("Host: localhost.evil.example",), 421),
    "a name that begins with our address": ("{path}", ("Host: 127.0.0.1.evil.example",), 421),
    "another address": ("{path}", ("Host: 10.9.9.9:{port}",), 421),
    "our host as a user's name": ("{path}", ("Host: localhost@evil.example",), 421),
    "an empty host": ("{path}", ("Host:",), 421),
    "a host that is a URL": ("{path}", ("Host: http://{own}/",), 421),
    "an absolute target": ("http://evil.example{path}", ("Host: {own}",), 421),
    "an absolute target with our host": ("http://{own}{path}", ("Host: {own}",), 421),
    "two hosts": ("{path}", ("Host: {own}", "Host: evil.example"), 400),
    "the same host twice": ("{path}", ("Host: {own}", "Host: {own}"), 400),
    "no host": ("{path}", (), 400),
    "another origin": ("{path}", ("Host: {own}", f"Origin: {FOREIGN}"), 403),
    "no origin that has a name": ("{path}", ("Host: {own}", "Origin: null"), 403),
    "another port's page": ("{path}", ("Host: {own}", "Origin: http://127.0.0.1:1"), 403),
    "our origin and another": ("{path}", ("Host: {own}", "Origin: http://{own}", f"Origin: {FOREIGN}"), 403),
    "an image of another page": ("{path}", ("Host: {own}", "Sec-Fetch-Site: cross-site"), 403),
    "a frame of another page": (
        "{path}", ("Host: {own}", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Dest: iframe"), 403),
    "a fetch of another port": ("{path}", ("Host: {own}", "Sec-Fetch-Site: same-site"), 403),
}  # fmt: skip


class WatchedService(ScriptedService):
    """Notes whatever a handler asks of it."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def submit(self, request):
        self.asked.append("submit")
        return super().submit(request)

    def status(self):
        self.asked.append("status")
        return super().status()

    def info(self):
        self.asked.append("info")
        return super().info()


@pytest.mark.parametrize("attack", ATTACKS)
def test_every_route_refuses_what_other_hosts_and_other_pages_send_before_its_handler(attack):
    target, lines, status = ATTACKS[attack]

    async def scenario():
        service = WatchedService()
        async with serving(service=service) as box:
            service.asked.clear()
            names = {"own": f"{box.host}:{box.port}", "port": box.port}
            for method, path in ROUTES:
                head = [f"{method} {target.format(path=path, **names)} HTTP/1.1", "Connection: close",
                        "Content-Length: 0", *(line.format(**names) for line in lines)]  # fmt: skip
                answer = await box.raw("\r\n".join([*head, "", ""]).encode())
                assert answer.startswith(b"HTTP/1.1 %d " % status), (method, path, answer[:200])
                assert b"access-control-" not in answer.lower()
            assert not service.asked

    asyncio.run(scenario())


def test_every_route_refuses_a_preflight_and_promises_other_pages_nothing():
    async def scenario():
        async with serving() as box, box.client() as client:
            for method, path in ROUTES:
                asked = {
                    "origin": FOREIGN,
                    "access-control-request-method": method,
                    "access-control-request-headers": "authorization, content-type",
                    "access-control-request-private-network": "true",
                }
                answer = await client.options(path, headers=asked)
                assert answer.status_code == 403, path
                assert not [name for name in answer.headers if name.startswith("access-control")]
                own = await client.options(path)
                assert own.status_code in {404, 405}, path

    asyncio.run(scenario())


def test_every_route_that_does_work_takes_nothing_that_a_form_can_send():
    kinds = ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "")

    async def scenario():
        async with serving() as box, box.client() as client:
            assert len(POSTS) >= 4
            for path in POSTS:
                for kind in kinds:
                    answer = await client.post(path, content=b"{}", headers={"content-type": kind})
                    assert answer.status_code == 415, (path, kind)
            assert not box.service.requests

    asyncio.run(scenario())


def test_every_route_serves_our_own_page_and_the_names_of_the_box():
    async def scenario():
        async with serving(names=("llm.example.org",)) as box, box.client() as client:
            for method, path in ROUTES:
                for headers in (
                    {},
                    {"origin": box.url, "sec-fetch-site": "same-origin"},
                    {"sec-fetch-site": "none"},
                    {"host": f"box.local:{box.port}"},
                    {"host": "llm.example.org", "origin": "http://llm.example.org"},
                ):
                    answer = await client.request(method, path, json=chat(), headers=headers)
                    assert answer.status_code in {200, 400, 404}, (path, headers)
                    assert answer.headers["x-content-type-options"] == "nosniff"
                    assert answer.headers["cross-origin-resource-policy"] == "same-origin"

    asyncio.run(scenario())


def test_a_link_on_another_page_may_be_followed_but_posts_nothing():
    followed = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}

    async def scenario():
        async with serving() as box, box.client() as client:
            assert (await client.get("/", headers=followed)).status_code == 200
            for path in POSTS:
                assert (await client.post(path, json={}, headers=followed)).status_code == 403

    asyncio.run(scenario())


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_every_route_but_the_probes_and_the_empty_page_needs_a_key(method, path, tmp_path):
    wrong = [
        [],
        [("Authorization", "Bearer wrong-key-of-many-chars")],
        [("Authorization", f"Basic {KEY}")],
        [("Authorization", KEY)],
        [("Authorization", f"Bearer {KEY}x")],
        [("Authorization", f"Bearer {KEY[:-1]}")],
        [("Authorization", "Bearer")],
        [("Authorization", "Bearer \xff\xfe")],
        [("Authorization", f"Bearer {KEY}"), ("Authorization", "Bearer other")],
        [("X-Api-Key", KEY), ("Cookie", f"key={KEY}")],
    ]

    async def scenario():
        keys = str(put_keys(tmp_path / "keys.toml"))
        async with serving(keys_file=keys) as box, box.client() as client:
            for headers in wrong:
                encoded = [(name, value.encode("latin-1")) for name, value in headers]
                response = await client.request(method, path, json=chat(), headers=encoded)
                assert KEY not in response.text
                if path in OPEN or path.startswith("/page/"):
                    assert response.status_code == 200
                    continue
                assert response.status_code == 401, headers
                assert response.headers["www-authenticate"].startswith("Bearer")
                assert "API key" in response.text
                told = await client.request(method, f"{path}?key={KEY}&api_key={KEY}", json=chat())
                assert told.status_code == 401
            assert not box.service.requests
            right = await client.request(
                method, path, json=chat(), headers={"Authorization": f"bearer {KEY}"}
            )
            assert right.status_code in {200, 400, 404}

    asyncio.run(scenario())


def test_the_page_that_needs_no_key_is_the_same_on_every_box(tmp_path):
    async def scenario():
        pages = []
        for folder in ("a", "b"):
            (tmp_path / folder).mkdir()
            keys = str(put_keys(tmp_path / folder / "keys.toml"))
            async with serving(keys_file=keys) as box, box.client() as client:
                files = [path for method, path in ROUTES if path.startswith("/page/")]
                answers = [await client.get(path, headers={"accept": "text/html"}) for path in ["/", *files]]
                assert {answer.status_code for answer in answers} == {200}
                pages.append([answer.content for answer in answers])
        assert pages[0] == pages[1]

    asyncio.run(scenario())
