"""Safe by default: which configurations serve whom, and where the real process then listens."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import socket
from pathlib import Path

import pytest

from edged.api.config import Http
from edged.api.errors import ConfigInvalid
from edged.host.config import parse
from edged.transports.http.listening import listen, require_loopback
from edged.transports.http.server import HttpTransport
from tests.kit.daemon import Daemon, running_daemon, wait_until
from tests.kit.http_serving import ScriptedService
from tests.kit.keys import put_keys
from tests.kit.service import fake_model, fake_tree

LOOPBACK = ("127.0.0.1", "127.8.9.10", "::1", "localhost")
WIDER = ("0.0.0.0", "::", "192.168.1.5", "fe80::1", "10.0.0.1", "box.lan", "127.0.0.1.example.org", "")
LISTENING = "0A"  # of the states in /proc/net/tcp


def listening(pid: int) -> set[str]:
    """The local addresses on which a process accepts TCP connections, as /proc tells them."""
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed since
            found = re.fullmatch(r"socket:\[(\d+)\]", str(link.readlink()))
            inodes |= {found[1]} if found else set()
    addresses = set()
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == LISTENING and rest[5] in inodes:
                words = bytes.fromhex(local.partition(":")[0])
                raw = b"".join(words[at : at + 4][::-1] for at in range(0, len(words), 4))
                addresses.add(socket.inet_ntop(family, raw))
    return addresses


@pytest.mark.parametrize(
    ("host", "keys_file", "enabled"),
    list(itertools.product((*LOOPBACK, *WIDER), ("", "/etc/edged/keys.toml"), (True, False))),
)
def test_only_loopback_is_served_without_keys(host, keys_file, enabled):
    tree = {
        "model": {"path": "/m.gguf"},
        "http": {"host": host, "keys_file": keys_file, "enabled": enabled},
    }
    safe = not enabled or bool(keys_file) or host in LOOPBACK
    try:
        parse(tree)
        refused = ()
    except ConfigInvalid as error:
        refused = error.problems
    assert bool(refused) != safe
    assert safe or any("http.host" in one and "edgectl keys add" in one for one in refused)


def test_an_untouched_configuration_listens_on_loopback_alone(tmp_path):
    with running_daemon(fake_tree(fake_model(tmp_path)), tmp_path) as daemon:
        assert listening(daemon.pid) == {"127.0.0.1"}
        assert listening(daemon.status()["worker_pid"]) == set()


@pytest.mark.parametrize(("host", "address"), [("::1", "::1"), ("0.0.0.0", "0.0.0.0")])
def test_the_process_listens_where_it_was_told_and_nowhere_else(tmp_path, host, address):
    keys = str(put_keys(tmp_path / "keys.toml"))
    tree = fake_tree(fake_model(tmp_path), http={"host": host, "keys_file": keys})
    daemon = Daemon(tree, tmp_path).start(ready=False)
    try:
        assert wait_until(lambda: listening(daemon.pid), "a listening socket") == {address}
    finally:
        assert daemon.stop() == 0


@pytest.mark.parametrize(
    ("http", "words"),
    [
        ({"host": "0.0.0.0"}, "http.host: anything wider than loopback needs http.keys_file"),
        ({"host": "::"}, "edgectl keys add NAME"),
        ({"host": "0.0.0.0", "keys_file": "GONE"}, "does not exist, so nobody could ask"),
        ({"host": "0.0.0.0", "keys_file": "EMPTY"}, "holds no key, so nobody could ask"),
        ({"host": "0.0.0.0", "keys_file": "OPEN"}, "chmod 644"),
        ({"host": "0.0.0.0", "keys_file": "BROKEN"}, "is not TOML"),
        ({"keys_file": "relative"}, "http.keys_file: must be absolute"),
        ({"api_key_file": "/etc/edged/key"}, "edgectl keys add NAME --from FILE"),
    ],
    ids=lambda part: "",
)
def test_an_unsafe_combination_exits_78_before_it_listens_and_says_what_to_do(tmp_path, http, words):
    files = {name: tmp_path / name for name in ("GONE", "EMPTY", "OPEN", "BROKEN")}
    files["EMPTY"].write_text("# no keys\n")
    put_keys(files["OPEN"]).chmod(0o666)
    files["BROKEN"].write_text("not = [toml")
    told = {key: str(files.get(value, value)) for key, value in http.items()}
    daemon = Daemon(fake_tree(fake_model(tmp_path), http=told), tmp_path).start(ready=False)
    assert daemon.wait() == 78
    assert words in daemon.log
    assert "listening" not in daemon.log
    assert "Traceback" not in daemon.log


def test_a_name_that_turns_out_to_be_no_loopback_address_is_refused_after_all(tmp_path):
    """The rule reads names, and what a name means is not known before it is resolved."""

    async def scenario():
        sockets = await listen("0.0.0.0", 0)
        with pytest.raises(ConfigInvalid, match=r"beyond loopback.*edgectl keys add"):
            require_loopback(sockets)
        assert [sock.fileno() for sock in sockets] == [-1]
        with pytest.raises(ConfigInvalid, match=r"beyond loopback"):
            await HttpTransport(Http(host="0.0.0.0", port=0), ScriptedService()).start()
        keyed = Http(host="0.0.0.0", port=0, keys_file=str(put_keys(tmp_path / "keys.toml")))
        transport = HttpTransport(keyed, ScriptedService())
        await transport.start()
        await transport.stop()

    asyncio.run(scenario())
