"""The machine that the tests of this folder change: its commands, its broker, and the box installed on it."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

EDGECTL = Path(sys.executable).with_name("edgectl")
CONFIG = Path("/etc/edged/edged.toml")
KEYS = Path("/etc/edged/keys.toml")
PASSWORD_FILE = Path("/root/edged-mqtt-password")
PASSWORD = f"canary-{secrets.token_urlsafe(24)}"  # of the broker, for the box
MOSQUITTO = Path("/etc/mosquitto")
CERTIFICATES = MOSQUITTO / "certs"
BROKER_FILES = tuple(MOSQUITTO / name for name in ("edged.acl", "edged.passwd", "conf.d/edged.conf"))
DEVICES = ("cam", "door", "operator")
NODE = socket.gethostname().split(".")[0]
MODEL = "smollm2-135m-instruct"
GROUP = Path("/sys/fs/cgroup/system.slice/edged.service")
PROGRAMS = ("mosquitto", "mosquitto_rr", "mosquitto_passwd", "openssl", "curl", "avahi-browse")
START_S = 120.0


def why_not() -> str:
    """Why this machine is not one to be changed; empty when it is."""
    if not os.environ.get("EDGED_GUEST"):
        return "this host is not given away: EDGED_GUEST=1 allows to change its system and to set its clock"
    missing = [name for name in PROGRAMS if not shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")]
    if os.geteuid() or not Path("/run/systemd/system").is_dir() or missing or not EDGECTL.is_file():
        return f"needs root, systemd, {EDGECTL} and {', '.join(missing or PROGRAMS)}"
    if CONFIG.exists():
        return f"edged is installed here already: {CONFIG}"
    return ""


def run(*words: object, ok: bool = True, timeout_s: float = 120.0, data: str | None = None) -> str:
    """What a command says, both outputs; with ``ok`` it must succeed."""
    done = subprocess.run(
        [str(word) for word in words], check=False, capture_output=True, text=True, timeout=timeout_s,
        **({"stdin": subprocess.DEVNULL} if data is None else {"input": data}),
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode == 0 or not ok, (words, done.returncode, said)
    return said


def edgectl(*words: object, ok: bool = True) -> str:
    return run(EDGECTL, *words, ok=ok, timeout_s=400.0)


def systemctl(*words: object, ok: bool = True) -> str:
    return run("systemctl", *words, ok=ok).strip()


def shown(name: str) -> str:
    """One property of the unit."""
    return systemctl("show", "edged", "--value", "-p", name)


def until(holds: Callable[[], Any], what: str, within_s: float = START_S) -> Any:
    """The first true value of ``holds``."""
    deadline = time.monotonic() + within_s
    while not (found := holds()):
        assert time.monotonic() < deadline, f"waited {within_s:.0f} s for {what}"
        time.sleep(0.5)
    return found


def set_up_broker() -> None:
    """Mosquitto as `edgectl config mosquitto` has it: passwords on loopback, certificates from elsewhere."""
    (MOSQUITTO / "edged.acl").write_text(edgectl("config", "mosquitto", "acl"))
    (MOSQUITTO / "conf.d/edged.conf").write_text(edgectl("config", "mosquitto", "conf"))
    PASSWORD_FILE.touch(mode=0o600)
    PASSWORD_FILE.write_text(PASSWORD)
    passwords = MOSQUITTO / "edged.passwd"
    run("mosquitto_passwd", "-b", "-c", passwords, "edged", PASSWORD)
    for name in DEVICES:
        run("mosquitto_passwd", "-b", passwords, name, f"of-{name}")
    passwords.chmod(0o644)
    new = ["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    ca, ca_key = CERTIFICATES / "ca.pem", CERTIFICATES / "ca.key"
    run(*new, "-x509", "-days", "7300", "-subj", "/CN=test authority", "-keyout", ca_key, "-out", ca)
    for name in ("broker", "edged", "cam"):
        key, made = CERTIFICATES / f"{name}.key", CERTIFICATES / f"{name}.pem"
        names = ("-addext", "subjectAltName=DNS:localhost") if name == "broker" else ()
        request = made.with_suffix(".csr")
        run(*new, "-subj", f"/CN={name}", *names, "-keyout", key, "-out", request)
        signed = ["openssl", "x509", "-req", "-days", "7300", "-copy_extensions", "copy"]
        run(*signed, "-CA", ca, "-CAkey", ca_key, "-in", request, "-out", made)
        request.unlink()
    shutil.chown(CERTIFICATES / "broker.key", "mosquitto")
    systemctl("restart", "mosquitto")


def remove_broker_files() -> None:
    for path in (*BROKER_FILES, *CERTIFICATES.glob("*.pem"), *CERTIFICATES.glob("*.key"), PASSWORD_FILE):
        path.unlink(missing_ok=True)
    systemctl("restart", "mosquitto")


def configure(**tables: dict[str, object]) -> None:
    """Write keys into edged.toml, as a person does with an editor, and restart the service."""
    lines = CONFIG.read_text().splitlines()
    for table, values in tables.items():
        names = set(values)
        start = lines.index(f"[{table}]") if f"[{table}]" in lines else len(lines)
        head, rest = lines[:start], lines[start + 1 :]
        end = next((number for number, line in enumerate(rest) if line.startswith("[")), len(rest))
        kept = [line for line in rest[:end] if line.split(" = ")[0] not in names]
        added = [f"{name} = {json.dumps(value)}" for name, value in values.items() if value is not None]
        lines = [*head, f"[{table}]", *added, *kept, *rest[end:]]
    CONFIG.write_text("\n".join(lines) + "\n")
    systemctl("restart", "edged", ok=False)


def web(path: str, *, key: str = "", host: str = "127.0.0.1", body: str | None = None) -> tuple[int, str]:
    """Status and body; 0 when nobody listens. The key goes through a file, as it must not be an argument."""
    words = ["-s", "-m", "120", "-w", "\n%{http_code}", f"http://{host}:8642{path}"]
    options = f'header = "Authorization: Bearer {key}"\n' if key else ""
    if body is not None:
        words += ["-H", "content-type: application/json", "--data-raw", body]
    said, _, code = run("curl", "-K", "-", *words, ok=False, data=options).rpartition("\n")
    return int(code), said


def chat(text: str, max_tokens: int = 8, **fields: object) -> str:
    messages = [{"role": "user", "content": text}]
    return json.dumps({"messages": messages, "max_tokens": max_tokens, **fields})


def lan_address() -> str:
    """An address of this machine that is not loopback."""
    return run("hostname", "-I").split()[0]


def answered(got: tuple[int, str]) -> bool:
    return got[0] == 200 and bool(json.loads(got[1])["choices"][0]["message"]["content"])


def require_keys() -> None:
    """Have the box ask for keys, if it does not yet."""
    if not own_key():
        edgectl("keys", "add", "first")
        configure(http={"keys_file": str(KEYS)})


def own_key() -> str:
    path = KEYS.with_name("edgectl.key")
    return path.read_text().strip() if path.exists() else ""


def status() -> dict[str, Any]:
    return json.loads(web("/status", key=own_key())[1])


def processes() -> list[int]:
    """All of the unit."""
    return [int(pid) for group in GROUP.rglob("cgroup.procs") for pid in group.read_text().split()]


def cpu_s() -> float:
    """Seconds of processor time that the whole unit has taken."""
    return int((GROUP / "cpu.stat").read_text().split()[1]) / 1e6


def empty_journal() -> None:
    """Let it tell of these tests alone."""
    run("journalctl", "--rotate", "--vacuum-time=1s")


def journal() -> str:
    """Every field of every entry, of the whole machine."""
    return run("journalctl", "--no-pager", "-o", "export", "-a")
