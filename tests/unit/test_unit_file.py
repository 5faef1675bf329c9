"""The unit: what it says, that systemd accepts it, and how little it exposes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec import structs

from edgectl.errors import Usage
from edgectl.install.code import Code, code_of, require_lasting, require_readable
from edgectl.install.unit import UnitFacts, credential_sources, start_timeout_s, unit_text

MIB = 1 << 20
ANALYZE = shutil.which("systemd-analyze")
needs_systemd = pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not on this computer")


def facts(**changes):
    base = UnitFacts(
        code=Code(
            command=("/usr/bin/env",), places=(Path("/usr"),)
        ),  # /usr/bin/env: verify wants it to exist
        config_path=Path("/etc/edged/edged.toml"),
        model_path=Path("/var/lib/edged/models/blobs/sha256-aa"),
        model_bytes=500_000_000,
        memory_max_bytes=900 * MIB,
        threads=4,
        systemd_version=252,
    )
    return structs.replace(base, **changes)


def settings(text):
    """key → all its values, in order."""
    found = {}
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


def exposure(text, path):
    path.write_text(text)
    shown = subprocess.run(
        [ANALYZE, "security", "--offline=true", str(path)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert shown.returncode == 0, shown.stderr
    return float(shown.stdout.split("exposure level for")[1].split(":")[1].split()[0])


def test_the_limits_come_from_the_plan():
    unit = settings(unit_text(facts()))
    assert unit["MemoryMax"] == [str(900 * MIB)]
    assert unit["MemorySwapMax"] == ["0"]
    assert unit["TasksMax"] == ["104"]
    assert unit["TimeoutStartSec"] == ["220"]


def test_a_large_file_on_a_slow_card_gets_time_to_load():
    assert start_timeout_s(5_600_000_000) == 2 * 560 + 120


def test_no_placeholder_and_no_empty_hole_is_left():
    for user in (False, True):
        text = unit_text(facts(user=user))
        assert not [line for line in text.splitlines() if "@" in line and "SystemCallFilter" not in line]
        assert "\n\n\n" not in text


def test_a_box_that_nobody_visits_is_never_given_up():
    unit = settings(unit_text(facts()))
    assert unit["StartLimitIntervalSec"] == ["0"]
    assert unit["Restart"] == ["always"]
    assert unit["RestartPreventExitStatus"] == ["78"]


def test_the_network_comes_first_where_it_comes_at_all():
    unit = settings(unit_text(facts()))
    assert "network-online.target" in unit["After"][0].split()
    assert "Wants" not in unit  # a box without a network would wait two minutes for it at each boot
    assert not {"Wants", "After"} & set(settings(unit_text(facts(user=True))))  # a user's manager has none


def test_only_a_systemd_that_knows_back_off_is_asked_for_it():
    assert settings(unit_text(facts()))["RestartSec"] == ["15"]
    newer = settings(unit_text(facts(systemd_version=254)))
    assert (newer["RestartSec"], newer["RestartSteps"], newer["RestartMaxDelaySec"]) == (
        ["5"],
        ["6"],
        ["300"],
    )


def test_homes_are_closed_when_nothing_needed_lies_there():
    unit = settings(unit_text(facts()))
    assert unit["ProtectHome"] == ["yes"]
    assert "BindReadOnlyPaths" not in unit


def test_code_and_model_below_a_home_are_shown_and_nothing_else_of_it():
    code = Code(
        command=("/root/venv/bin/edged",),
        places=(Path("/root/venv"), Path("/root/venv/lib/python3.11/site-packages"), Path("/usr")),
    )
    unit = settings(unit_text(facts(code=code, model_path=Path("/home/me/tiny.gguf"))))
    assert unit["ProtectHome"] == ["tmpfs"]
    assert unit["TemporaryFileSystem"] == ["/home:ro,mode=0755 /root:ro,mode=0755 /run/user:ro,mode=0755"]
    assert unit["BindReadOnlyPaths"] == ["/root/venv", "/home/me/tiny.gguf"]


def test_a_model_inside_the_shown_code_is_not_shown_twice():
    code = Code(command=("/root/venv/bin/edged",), places=(Path("/root/venv"),))
    unit = settings(unit_text(facts(code=code, model_path=Path("/root/venv/lib/m.gguf"))))
    assert unit["BindReadOnlyPaths"] == ["/root/venv"]


def test_passwords_are_handed_over_as_credentials_and_found_again():
    text = unit_text(facts(secrets=(("mqtt-password", Path("/root/mqtt.pw")),)))
    assert settings(text)["LoadCredential"] == ["mqtt-password:/root/mqtt.pw"]
    assert credential_sources(text) == {"mqtt-password": "/root/mqtt.pw"}


def test_an_odd_path_of_a_credential_is_found_again_as_it_was():
    path = Path('/root/a b:c/100%pw/say "hi"')
    text = unit_text(facts(secrets=(("mqtt-password", path),)))
    assert settings(text)["LoadCredential"] == ['mqtt-password:/root/a b:c/100%%pw/say "hi"']
    assert credential_sources(text) == {"mqtt-password": str(path)}


@pytest.mark.parametrize("path", ["/srv/a\nb", "/srv/../pw", "/srv/pw ", "/srv/pw\\"])
def test_a_path_that_systemd_takes_no_credential_from_is_refused(path):
    with pytest.raises(Usage, match="takes no credential"):
        unit_text(facts(secrets=(("mqtt-password", Path(path)),)))


def test_odd_paths_are_quoted_for_systemd():
    code = Code(command=('/srv/a b/100%/say "hi"/edged',), places=())
    assert settings(unit_text(facts(code=code)))["ExecStart"] == [
        '"/srv/a b/100%%/say \\"hi\\"/edged" --config /etc/edged/edged.toml'
    ]


@pytest.mark.parametrize("path", ["/srv/a\nExecStartPre=/bin/evil/edged", "/srv/$HOME/edged"])
def test_a_path_that_would_change_the_meaning_of_the_unit_is_refused(path):
    with pytest.raises(Usage):
        unit_text(facts(code=Code(command=(path,), places=())))


def test_the_user_unit_asks_for_nothing_that_needs_root():
    unit = settings(unit_text(facts(user=True)))
    for key in (
        "DynamicUser",
        "ProtectSystem",
        "PrivateDevices",
        "StateDirectory",
        "LoadCredential",
        "CPUWeight",
    ):
        assert key not in unit
    assert unit["NoNewPrivileges"] == ["yes"]
    assert unit["WantedBy"] == ["default.target"]


@needs_systemd
@pytest.mark.parametrize("user", [False, True])
def test_systemd_accepts_every_line(tmp_path, user):
    path = tmp_path / "edged.service"
    secrets = (("mqtt-password", Path("/etc/hostname")), ("mqtt-ca", Path('/etc/edged/a b:c/1%pw "hi"')))
    path.write_text(unit_text(facts(user=user, secrets=() if user else secrets)))
    checked = subprocess.run(
        [ANALYZE, *(["--user"] if user else []), "verify", "--man=no", str(path)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": "/usr/bin:/bin", "XDG_RUNTIME_DIR": str(tmp_path)},
    )
    about_us = [line for line in checked.stderr.splitlines() if "edged" in line]
    assert (checked.returncode, about_us) == (0, [])


@needs_systemd
@pytest.mark.parametrize("home", ["/opt/edged", "/root/venv"])
def test_the_service_exposes_at_most_two_of_ten(tmp_path, home):
    code = Code(command=("/usr/bin/env",), places=(Path(home),))
    assert exposure(unit_text(facts(code=code)), tmp_path / "edged.service") <= 2.0


# --- where the code lies


@pytest.fixture
def venv(tmp_path):
    """A virtual environment's shape, readable by all."""
    for folder in ("bin", "lib/python3.11/site-packages/edged"):
        (tmp_path / "venv" / folder).mkdir(parents=True)
    (tmp_path / "venv/pyvenv.cfg").write_text("home = /usr/bin\n")
    (tmp_path / "venv/lib/python3.11/site-packages/edged/app.py").write_text("")
    (tmp_path / "base").mkdir()
    (tmp_path / "base/python3.11").write_text("")
    (tmp_path / "venv/bin/python").symlink_to(tmp_path / "base/python3.11")
    for path in (tmp_path, *tmp_path.rglob("*")):
        path.chmod(0o755)
    return tmp_path / "venv"


def code_in(venv):
    return code_of(
        venv / "bin/python", (venv,), ["", str(venv / "lib/python3.11/site-packages"), "/nowhere.zip"]
    )


def test_the_interpreter_is_followed_over_every_link(venv):
    code = code_in(venv)
    assert code.command == (str(venv / "bin/python"), "-P", "-m", "edged")
    assert {venv, venv / "bin/python", venv.parent / "base/python3.11"} <= set(code.places)
    assert Path("/nowhere.zip") not in code.places


def test_the_installed_script_is_preferred(venv):
    (venv / "bin/edged").write_text("")
    assert code_in(venv).command == (str(venv / "bin/edged"),)


@pytest.fixture
def as_home(monkeypatch, tmp_path):
    """Treats tmp_path as a home: its own mode does not count, what is shown of it does."""
    monkeypatch.setattr("edgectl.install.code.HIDDEN", (tmp_path,))
    tmp_path.chmod(0o700)


@pytest.mark.usefixtures("as_home")
def test_code_in_a_closed_home_is_fine_when_it_is_open_itself(venv):
    require_readable(code_in(venv))
    assert code_in(venv).hidden == (venv.parent / "base/python3.11", venv)


@pytest.mark.usefixtures("as_home")
@pytest.mark.parametrize(
    "closed", ["", "lib/python3.11/site-packages/edged", "lib/python3.11/site-packages/edged/app.py"]
)
def test_code_that_others_cannot_read_is_named(venv, closed):
    (venv / closed).chmod(0o700 if (venv / closed).is_dir() else 0o600)
    with pytest.raises(Usage, match=str(venv / closed)):
        require_readable(code_in(venv))


@pytest.mark.usefixtures("as_home")
def test_a_private_file_that_is_no_code_does_not_matter(venv):
    (venv / "notes.txt").write_text("")
    (venv / "notes.txt").chmod(0o600)
    require_readable(code_in(venv))


def test_code_that_a_reboot_removes_is_refused():
    with pytest.raises(Usage, match="does not outlive a reboot"):
        require_lasting(Code(command=("/tmp/x/bin/edged",), places=(Path("/tmp/x"),)))
    require_lasting(Code(command=("/opt/x/bin/edged",), places=(Path("/opt/x"),)))


def test_the_folder_one_happens_to_stand_in_is_no_code_of_the_service(tmp_path):
    lines = ("from edgectl.install.code import running_code", "print(*running_code().places, sep='\\n')")
    (tmp_path / "where.py").write_text("\n".join(lines))
    done = subprocess.run(
        [sys.executable, "-m", "where"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    places = done.stdout.splitlines()
    assert sys.prefix in places
    assert str(tmp_path) not in places
