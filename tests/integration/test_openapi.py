"""/openapi.json is true: what is in it, what is not, and what real answers look like against it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import msgspec
import pytest

from edged.transports.http import openapi_answers
from edged.transports.http.connection import Patience
from edged.transports.http.errors import STATUS
from edged.transports.http.guards import HEALTH_PATHS
from edged.transports.http.routes import routes
from tests.kit.daemon import running_daemon
from tests.kit.http_serving import chat, serving
from tests.kit.keys import KEY, put_keys
from tests.kit.service import fake_model, fake_tree

RUN_S = 45  # of generated requests; a check that found nothing in that time finds little in an hour
ST = Path(sys.executable).with_name("st")
# A request whose time to live is nothing is refused with 504, as the document says.
SETTINGS = """
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", 504]
"""
# Some rules no schema tells: an embedding asked of a model that chats, a conversation without a question.
BEYOND_SCHEMAS = "positive_data_acceptance"
QUESTION = {"temperature": 0, "max_tokens": 8}
# Each with what its answers are; streams are asked for as well.
ASKED = [
    ("/v1/chat/completions", chat(**QUESTION)),
    ("/v1/chat/completions", chat(**QUESTION, logprobs=True, top_logprobs=2)),
    ("/v1/chat/completions", chat(**QUESTION, stream_options={"include_usage": True})),
    ("/v1/completions", {"prompt": "x", **QUESTION}),
    ("/v1/completions", {"prompt": "x", **QUESTION, "logprobs": 2}),
    ("/v1/classify", {"prompt": "x", "choices": ["yes", "no"]}),
]


@pytest.fixture(scope="module")
def box(tmp_path_factory):
    folder = tmp_path_factory.mktemp("box")
    keys = str(put_keys(folder / "keys.toml"))
    with running_daemon(fake_tree(fake_model(folder), http={"keys_file": keys}), folder) as daemon:
        yield daemon


def ask(box, path, body=None):
    """Status, media type and text of one answer."""
    import urllib.error
    import urllib.request

    data = None if body is None else json.dumps(body).encode()
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    request = urllib.request.Request(box.url + path, data, headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.headers.get_content_type(), answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers.get_content_type(), error.read().decode()


@pytest.fixture(scope="module")
def document(box):
    status, media_type, text = ask(box, "/openapi.json")
    assert (status, media_type) == (200, "application/json")
    return json.loads(text)


def checked(document, schema, value):
    """Hold ``value`` against ``schema``, whose references lead into ``document``."""
    root = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
    jsonschema.Draft202012Validator({**root, "components": document["components"]}).validate(value)


def test_every_route_is_in_the_document_with_its_method_and_the_reverse():
    async def scenario():
        async with serving() as box, box.client() as client:
            told = (await client.get("/openapi.json")).json()["paths"]
            there = routes(box.service, Patience(), keyed=False)
            assert all(route.methods - {"HEAD"} == {route.about.method} for route in there)
            methods = {(route.path_format, route.about.method) for route in there}
            assert {(path, method.upper()) for path, item in told.items() for method in item} == methods
            index = (await client.get("/")).json()["routes"]
            assert set(index) == {route.path for route in there}

    asyncio.run(scenario())


def test_the_document_costs_nothing_before_somebody_asks_for_it():
    code = """
import asyncio, sys
from tests.kit.http_serving import serving
async def scenario():
    async with serving() as box, box.client() as client:
        await client.get("/status")
        before = "edged.transports.http.openapi" in sys.modules
        await client.get("/openapi.json")
        print(before, "edged.transports.http.openapi" in sys.modules)
asyncio.run(scenario())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_every_operation_but_the_probes_wants_a_key_where_keys_are_asked_for(document):
    assert document["security"] == [{"key": []}]
    for path, item in document["paths"].items():
        for operation in item.values():
            open_to_all = path in HEALTH_PATHS
            assert (operation.get("security") == []) == open_to_all, path
            assert ("401" in operation["responses"]) != open_to_all, path


def test_without_keys_the_document_asks_for_none():
    async def scenario():
        async with serving() as box, box.client() as client:
            told = (await client.get("/openapi.json")).json()
            assert told["security"] == []
            assert not [item for path in told["paths"].values() for item in path.values()
                        if "401" in item["responses"]]  # fmt: skip

    asyncio.run(scenario())


def test_every_status_of_the_table_of_errors_is_told_with_its_codes(document):
    told = document["components"]["responses"]
    router = {"not_found", "method_not_allowed", "refused"}  # of paths and methods that are not there
    for code, (status, _) in STATUS.items():
        name = f"ErrorObject{status}"
        if code not in router:
            assert f"`{code}`: " in told[name]["description"]


def test_every_type_of_an_answer_is_used(document):
    own = {
        name
        for name, kind in vars(openapi_answers).items()
        if isinstance(kind, type)
        and issubclass(kind, msgspec.Struct)
        and kind.__module__ == openapi_answers.__name__
    }
    bases = {base.__name__ for name in own for base in vars(openapi_answers)[name].__mro__[1:]}
    assert own - bases <= set(document["components"]["schemas"])


@pytest.mark.parametrize("number", range(len(ASKED)))
def test_whole_answers_are_what_the_document_says(box, document, number):
    path, body = ASKED[number]
    body = {key: value for key, value in body.items() if key != "stream_options"}
    status, media_type, text = ask(box, path, body)
    assert status == 200, text
    content = document["paths"][path]["post"]["responses"]["200"]["content"]
    checked(document, content[media_type]["schema"], json.loads(text))


@pytest.mark.parametrize("number", [number for number, (path, _) in enumerate(ASKED) if "complet" in path])
def test_every_event_of_a_stream_is_what_the_document_says(box, document, number):
    path, body = ASKED[number]
    status, media_type, text = ask(box, path, {**body, "stream": True})
    assert (status, media_type) == (200, "text/event-stream")
    *events, end = [line.removeprefix("data: ") for line in text.split("\n\n") if line.startswith("data: ")]
    assert end == "[DONE]"
    assert len(events) > 2
    schema = document["paths"][path]["post"]["responses"]["200"]["content"][media_type]["x-itemSchema"]
    for event in events:
        checked(document, schema, json.loads(event))


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/completions", {"prompt": 1}, 400),
        ("/v1/completions", {"prompt": "x", "model": "nobody"}, 404),
        ("/v1/completions", {"prompt": "x" * 100_000}, 413),
        ("/v1/models/nobody", None, 404),
    ],
)
def test_refusals_are_what_the_document_says(box, document, path, body, status):
    told, _, text = ask(box, path, body)
    assert told == status
    item = document["paths"][path.replace("nobody", "{name}")]["get" if body is None else "post"]
    reference = item["responses"][str(status)]["$ref"].rpartition("/")[2]
    response = document["components"]["responses"][reference]
    checked(document, response["content"]["application/json"]["schema"], json.loads(text))


def test_generated_requests_find_no_server_error_and_nothing_that_the_document_does_not_say(box, tmp_path):
    settings = tmp_path / "schemathesis.toml"
    settings.write_text(SETTINGS)
    done = subprocess.run(
        [
            ST, "--config-file", settings, "run", f"{box.url}/openapi.json",
            "--header", f"Authorization: Bearer {KEY}",
            "--checks", "all", "--exclude-checks", BEYOND_SCHEMAS,
            "--phases", "coverage,fuzzing", "--max-examples", "50", "--max-time", str(RUN_S), "--seed", "1",
            "--suppress-health-check", "all", "--continue-on-failure", "--no-color",
        ],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=RUN_S * 3,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert ask(box, "/healthz")[0] == 200
    assert "level=ERROR" not in box.log
