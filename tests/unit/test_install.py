"""Installing is all or nothing, whatever fails and whenever the process dies."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import tomllib

import msgspec
import pytest

from edgectl.errors import NoSpace, NotFound, RollbackFailed, RolledBack, Unhealthy, Usage
from edgectl.install import uninstaller
from edgectl.install.change import JOURNAL, exclusive
from edgectl.install.desired import Desired
from edgectl.install.installer import compare, look
from edgectl.install.manifest import MANIFEST, Options, digest, manifest_text, read_manifest
from edgectl.install.prepare import check
from edgectl.install.systemd import Systemd
from edgectl.output.installation import show_next
from edged.api.errors import Busy
from edged.api.status import EngineState
from edged.host.config import load
from tests.kit.installation import CODE, COMPUTER, Box, Faults, Killed, tree
from tests.kit.keys import KEY, put_keys

MOST_EFFECTS = 200  # far more than any installation has; a loop that reaches it tests nothing


@pytest.fixture
def box(tmp_path):
    return Box(tmp_path)


def state(box):
    return Systemd(box.manager, user=False).state()


def uninstall(box, *, purge=False):
    """As the command does it."""
    with exclusive(box.places.record):
        folders = uninstaller.folders(box.places)
        uninstaller.carry_out(removal(box, purge=purge), box.said.append)
    uninstaller.remove_empty(folders)


def removal(box, *, purge=False):
    return uninstaller.removal(box.places, box.host, state(box), purge=purge)


# --- what an installation leaves behind


def test_a_fresh_installation_serves_and_starts_at_boot(box):
    box.install(Options(mqtt_host="broker.lan", node="kitchen"))
    config = load(box.places.config)
    assert (config.mqtt.host, config.node, config.model.path) == ("broker.lan", "kitchen", str(box.model))
    assert config.memory.budget_mib > 0
    assert box.manager.active
    assert state(box).is_enabled
    assert box.places.unit.read_text().count("ExecStart=") == 1


def test_files_can_be_read_by_the_service_whatever_the_umask(box):
    before = os.umask(0o077)
    try:
        box.install()
    finally:
        os.umask(before)
    assert box.places.config.stat().st_mode & 0o777 == 0o644
    assert box.places.config.parent.stat().st_mode & 0o777 == 0o755


def test_one_real_answer_belongs_to_the_installation(box):
    box.client.broken = Unhealthy("it answers nonsense")
    before = box.everything()
    with pytest.raises(RolledBack, match="it answers nonsense"):
        box.install()
    assert box.everything() == before


def test_installing_again_finds_nothing_to_change(box):
    box.install(Options(context_tokens=1024))
    verdict = compare(look(box.places), Options(context_tokens=1024), COMPUTER, CODE.command, state(box))
    assert verdict == "same"


@pytest.mark.parametrize("change", ["options", "computer", "code", "unit", "model", "config"])
def test_what_changed_is_noticed(box, change):
    box.install(Options(context_tokens=1024))
    options, computer, command = Options(context_tokens=1024), COMPUTER, CODE.command
    if change == "options":
        options = Options(context_tokens=2048)
    elif change == "computer":
        computer = msgspec.structs.replace(COMPUTER, memory_bytes=4 << 30)
    elif change == "code":
        command = ("/elsewhere/edged",)
    elif change == "unit":
        box.places.unit.write_text("[Service]\n")
    elif change == "model":
        box.model.unlink()
    else:
        box.places.config.write_text("not = [toml")
    assert compare(look(box.places), options, computer, command, state(box)) == "different"


def test_a_few_mib_less_memory_after_a_reboot_is_the_same_computer(box):
    box.install()
    later = msgspec.structs.replace(COMPUTER, memory_bytes=COMPUTER.memory_bytes - (40 << 20))
    assert compare(look(box.places), Options(), later, CODE.command, state(box)) == "same"


def test_a_stopped_service_is_only_started(box):
    box.install()
    box.manager.active = False
    assert compare(look(box.places), Options(), COMPUTER, CODE.command, state(box)) == "stopped"


# --- a second installation over the first


def test_what_was_asked_before_holds_until_it_is_asked_otherwise(box):
    box.install(Options(mqtt_host="broker.lan", context_tokens=1024))
    box.install(Options(context_tokens=2048))
    config = load(box.places.config)
    assert (config.mqtt.host, config.model.context) == ("broker.lan", 2048)


def test_settings_made_by_hand_stay_and_the_edited_file_is_kept_beside(box):
    box.install()
    edited = box.places.config.read_text() + "\n# mine\n[limits]\nqueue = 7\n"
    box.places.config.write_text(edited)
    box.install(Options(context_tokens=1024))
    assert load(box.places.config).limits.queue == 7
    assert box.places.backup.read_text() == edited


def test_what_was_asked_before_and_changed_by_hand_since_stays_as_the_hand_left_it(box):
    box.install(Options(mqtt_host="broker.lan", mqtt_port=8883, node="kitchen"))
    config = box.places.config
    config.write_text(config.read_text().replace("broker.lan", "other.lan").replace("port = 8883\n", ""))
    box.install(Options(context_tokens=1024, node="hall"))
    mqtt = load(config).mqtt
    assert (mqtt.host, mqtt.port, load(config).node) == ("other.lan", 1883, "hall")


def test_what_is_asked_again_counts_over_what_a_hand_changed_since(box):
    asked = Options(mqtt_host="broker.lan")
    box.install(asked)
    config = box.places.config
    config.write_text(config.read_text().replace("broker.lan", "other.lan"))

    def verdict(options):
        return compare(look(box.places), options, COMPUTER, CODE.command, state(box))

    assert (verdict(Options()), verdict(asked)) == ("same", "different")
    box.install(asked)
    assert load(config).mqtt.host == "broker.lan"
    assert verdict(asked) == "same"


def test_a_model_to_be_chosen_anew_is_never_the_same(box):
    box.install()
    auto = Options(model="auto")
    assert compare(look(box.places), auto, COMPUTER, CODE.command, state(box)) == "different"


def test_what_the_plan_decides_is_written_anew_whatever_a_hand_set(box):
    box.install()
    config = box.places.config
    planned = load(config)
    budget_mib = planned.memory.budget_mib
    edited = config.read_text().replace(f"budget_mib = {budget_mib}", f"budget_mib = {budget_mib + 99}")
    config.write_text(edited)
    assert load(config).memory.budget_mib == budget_mib + 99
    box.install()
    assert load(config) == planned


def test_what_was_asked_before_counts_again_when_the_configuration_is_lost(box):
    box.install(Options(mqtt_host="broker.lan"))
    box.places.config.unlink()
    box.install()
    assert load(box.places.config).mqtt.host == "broker.lan"


def test_a_configuration_that_says_the_same_keeps_its_comments(box):
    box.install()
    edited = "# mine\n" + box.places.config.read_text()
    box.places.config.write_text(edited)
    box.places.unit.write_text("[Service]\n")
    box.install()
    assert box.places.config.read_text() == edited
    assert not box.places.backup.exists()


def test_a_broken_configuration_is_replaced_and_kept_beside(box):
    box.places.config.parent.mkdir()
    box.places.config.write_text("not = [toml")
    box.install()
    assert load(box.places.config).model.path == str(box.model)
    assert box.places.backup.read_text() == "not = [toml"


def test_a_configuration_that_a_later_version_rejects_is_kept_beside_though_nobody_edited_it(box):
    box.install()
    rejected = '[http]\nhost = "0.0.0.0"\napi_key_file = "/etc/edged/key"\n'
    box.places.config.write_text(rejected)
    record = box.places.record / MANIFEST
    written = msgspec.structs.replace(read_manifest(box.places.record), config_sha256=digest(rejected))
    record.write_text(manifest_text(written))
    assert not look(box.places).edited
    box.install()
    assert load(box.places.config).model.path == str(box.model)
    assert box.places.backup.read_text() == rejected


def test_a_password_reaches_the_service_as_a_credential_and_survives_a_reinstall(box):
    secret = box.root / "mqtt.pw"
    secret.write_text("canary")
    box.install(Options(mqtt_username="box", mqtt_password_file=str(secret)))
    box.install(Options(context_tokens=1024))
    assert f"LoadCredential=mqtt-password:{secret}\n" in box.places.unit.read_text()
    assert load(box.places.config).mqtt.password_file == "/run/credentials/edged.service/mqtt-password"
    written = [path for path in box.root.rglob("*") if path.is_file() and path != secret]
    assert not [path for path in written if "canary" in path.read_text()]


@pytest.mark.parametrize("name", ["mqtt.pw", "100% a b.pw"])
def test_a_credential_is_handed_over_by_a_unit_that_was_lost_or_edited(box, name):
    secret = box.root / name
    secret.write_text("canary")
    box.install(Options(mqtt_username="box", mqtt_password_file=str(secret)))
    box.install(Options(context_tokens=1024))
    unit = box.places.unit.read_text()
    line = f"LoadCredential=mqtt-password:{secret}\n".replace("%", "%%")
    assert line in unit
    box.places.unit.write_text(unit.replace(line, ""))
    box.install()
    assert box.places.unit.read_text() == unit
    box.places.unit.unlink()
    box.install()
    assert box.places.unit.read_text() == unit


def test_a_credential_whose_file_nothing_names_any_more_is_told_and_nothing_is_changed(box):
    secret = box.root / "mqtt.pw"
    secret.write_text("canary")
    box.install(Options(mqtt_username="box", mqtt_password_file=str(secret)))
    box.places.unit.unlink()
    shutil.rmtree(box.places.record)
    before = box.everything()
    with pytest.raises(Usage, match=r"mqtt\.password_file is /run/credentials/.* from which file"):
        box.install()
    assert box.everything() == before


def test_the_files_of_tls_with_the_broker_reach_the_service_as_credentials(box):
    files = {name: box.root / name for name in ("ca", "cert", "key")}
    for path in files.values():
        path.write_text("canary")
    box.install(Options(**{f"mqtt_{name}_file": str(path) for name, path in files.items()}))
    unit, mqtt = box.places.unit.read_text(), load(box.places.config).mqtt
    for name, path in files.items():
        assert f"LoadCredential=mqtt-{name}:{path}\n" in unit
        assert getattr(mqtt, f"{name}_file") == f"/run/credentials/edged.service/mqtt-{name}"


def test_the_lines_to_try_name_the_files_of_tls_that_a_person_has(box, capsys):
    ca = box.root / "100%ca.pem"
    ca.write_text("canary")
    box.install(Options(mqtt_host="broker.lan", mqtt_port=8883, mqtt_ca_file=str(ca)))
    made = Desired(config=load(box.places.config), config_text="", unit_text=box.places.unit.read_text())
    show_next(made, box.places)
    assert f"mosquitto_sub -h broker.lan -p 8883 --cafile {ca} -t edged/" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"mqtt_cert_file": "/etc/hosts", "mqtt_ca_file": "/etc/hosts"}, Usage, "belong together"),
        ({"mqtt_cert_file": "/etc/hosts", "mqtt_key_file": "/etc/hosts"}, Usage, "needs --mqtt-ca-file"),
        ({"mqtt_ca_file": "/nowhere/ca.pem"}, NotFound, "there is no file /nowhere/ca.pem"),
    ],
)
def test_half_of_what_tls_needs_is_refused(options, error, words):
    with pytest.raises(error, match=words):
        check(Options(**options), Options())


def test_a_service_that_fails_to_start_gives_way_to_the_one_before(box):
    box.install(Options(context_tokens=1024))
    before = box.everything()
    box.manager.fails, box.manager.fails_with = "exit-code", "context = 2048"
    with pytest.raises(RolledBack, match=r"did not start \(exit-code\); its last words:\n +the last words"):
        box.install(Options(context_tokens=2048))
    assert box.everything() == before


def test_a_model_that_never_loads_ends_the_wait(box):
    box.client.engine = EngineState.BROKEN
    box.manager._start = lambda: type(box.manager)._reset_failed(box.manager)  # it starts, and is never ready
    states = iter(range(1000))
    show = box.manager._show

    def activating():
        done = show()
        next(states)
        return msgspec.structs.replace(
            done,
            output=done.output.replace("ActiveState=inactive", "ActiveState=activating").replace(
                "SubState=dead", "SubState=start"
            ),
        )

    box.manager._show = activating
    with pytest.raises(RolledBack, match="cannot load the model"):
        box.install()


# --- every single effect fails once; the process dies at every single effect


def scenarios(box, name):
    """The options to install in a box that is ``fresh``, or has an edited installation, or only models."""
    if name == "second":
        box.install(Options(context_tokens=1024, mqtt_host="broker.lan"))
        box.places.config.write_text(box.places.config.read_text() + "[limits]\nqueue = 7\n")
        box.host.systemd.start()
    if name == "models":
        (box.places.models / "blobs").mkdir(parents=True)
        (box.places.models / "blobs/sha256-aa").write_text("weights")
    return Options(context_tokens=2048)


@pytest.mark.parametrize("scenario", ["fresh", "models", "second"])
def test_an_error_at_any_effect_leaves_everything_as_it_was(tmp_path, monkeypatch, scenario):
    for at in range(1, MOST_EFFECTS):
        box = Box(tmp_path / str(at))
        options = scenarios(box, scenario)
        before = box.everything()
        with monkeypatch.context() as patch:
            faults = Faults(patch, box.manager, at, dead=False)
            real, box.manager = box.manager, _Through(box.manager, faults.manager)
            try:
                box.install(options)
                failed = False
            except (RolledBack, NoSpace):  # nothing else may come out
                failed = True
            box.manager = real
        if not faults.fired:
            assert (at > 20, failed) == (True, False)
            return
        if failed:
            assert box.everything() == before, f"effect {at}"
        else:
            assert load(box.places.config).model.context == 2048  # only tidying up went wrong
    pytest.fail("the installation has no end")


@pytest.mark.parametrize("scenario", ["fresh", "models", "second"])
def test_a_kill_at_any_effect_is_undone_by_the_next_run(tmp_path, monkeypatch, scenario):
    for at in range(1, MOST_EFFECTS):
        box = Box(tmp_path / str(at))
        options = scenarios(box, scenario)
        before = box.everything()
        with monkeypatch.context() as patch:
            faults = Faults(patch, box.manager, at, dead=True)
            real, box.manager = box.manager, _Through(box.manager, faults.manager)
            try:
                box.install(options)
            except (Killed, RollbackFailed):
                assert faults.fired
            box.manager = real
        if not faults.fired:
            assert at > 20
            return
        box.recover()
        manifest = read_manifest(box.places.record)
        done = manifest is not None and manifest.options.context_tokens == 2048
        if done:
            assert (load(box.places.config).model.context, box.manager.active) == (2048, True)
        else:
            assert box.everything() == before, f"effect {at}"
        box.install(options)
        assert load(box.places.config).model.context == 2048
    pytest.fail("the installation has no end")


class _Through:
    """The manager, every command to it counted as an effect."""

    def __init__(self, manager, guarded):
        self._manager, self._guarded = manager, guarded

    def __call__(self, command, timeout_s):
        changes = {"start", "stop", "enable", "disable", "daemon-reload"} & set(command)
        return self._guarded(command, timeout_s) if changes else self._manager(command, timeout_s)

    def __getattr__(self, name):
        return getattr(self._manager, name)


def test_a_step_is_on_the_disk_before_it_is_done(box, monkeypatch):
    seen = []
    journal = box.places.record / JOURNAL
    fsync = os.fsync

    def syncing(descriptor):
        fsync(descriptor)
        if journal.exists() and os.path.samestat(os.fstat(descriptor), journal.stat()):
            seen.append("synced")

    monkeypatch.setattr(os, "fsync", syncing)
    box.manager = _Through(box.manager, lambda *words: seen.append("done") or real(*words))
    real = box.manager._manager
    box.install()
    changes = [index for index, name in enumerate(seen) if name == "done"]
    assert len(changes) == 3  # daemon-reload, enable, start
    assert all(seen[index - 1] == "synced" for index in changes)


def test_a_line_torn_by_a_power_cut_does_not_keep_the_rest_from_being_undone(box):
    before = box.everything()
    box.client.broken = Killed()
    with pytest.raises(Killed):
        _die_in_the_proof(box)
    journal = box.places.record / JOURNAL
    journal.write_bytes(journal.read_bytes() + b'{"step":"put-fi')
    box.client.broken = None
    assert box.recover()
    assert box.everything() == before


def _die_in_the_proof(box):
    """As if the power went: nothing is undone."""
    host = box.host
    with exclusive(box.places.record):
        from edgectl.install.change import Journal

        journal = Journal(box.places.record / JOURNAL)
        for step in box.steps():
            journal.record(step)
            step.do(host)


def test_what_cannot_be_undone_is_named_and_undone_by_the_next_run(box):
    before = box.everything()
    box.client.broken = Unhealthy("no answer")
    stop = box.manager._stop
    box.manager._stop = lambda: msgspec.structs.replace(stop(), status=1, errors="Access denied\n")
    with pytest.raises(RollbackFailed, match="Access denied") as caught:
        box.install()
    assert "start edged and wait" in caught.value.message
    box.manager._stop = stop
    assert box.recover()
    assert box.everything() == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_in_the_middle_undoes_everything(box, number):
    before = box.everything()
    handler = signal.signal(number, signal.default_int_handler)  # as edgectl's entry does
    try:
        box.client.generate = lambda *_a, **_k: signal.raise_signal(number)
        with pytest.raises(RolledBack, match="stopped by you"):
            box.install()
    finally:
        signal.signal(number, handler)
    assert box.everything() == before


def test_two_installations_at_once_are_refused(box):
    refused = []

    def second():
        try:
            box.install()
        except Busy as error:
            refused.append(error)

    with exclusive(box.places.record):
        other = threading.Thread(target=second)
        other.start()
        other.join(10)
    assert len(refused) == 1


def test_a_user_who_may_not_linger_is_told_and_installed_all_the_same(box):
    box.manager.may_linger = False
    box.install(lingering="me")
    assert any("loginctl enable-linger me" in line for line in box.said)
    assert box.manager.active


# --- uninstall


def test_uninstalling_leaves_nothing(box):
    before = box.everything()
    box.install(lingering="me")
    uninstall(box, purge=True)
    assert box.everything() == before


def test_models_and_an_edited_configuration_stay_without_purge(box):
    box.install()
    box.places.config.write_text(box.places.config.read_text() + "[limits]\nqueue = 7\n")
    kept = uninstaller.kept(box.places, purge=False)
    uninstall(box)
    assert kept == [box.places.config, box.places.state]
    assert load(box.places.config).limits.queue == 7
    assert box.places.state.is_dir()
    assert not box.places.unit.exists()
    assert removal(box) == []


def test_api_keys_outlive_a_reinstall_and_a_removal_and_go_with_purge(box):
    box.install()
    hashes, own = box.places.keys
    put_keys(hashes)
    own.write_text(KEY)
    served = f'\n[http]\nhost = "0.0.0.0"\nkeys_file = "{hashes}"\n'
    box.places.config.write_text(box.places.config.read_text() + served)
    box.install(Options(context_tokens=1024))
    assert load(box.places.config).http.keys_file == str(hashes)
    assert "LoadCredential" not in box.places.unit.read_text()  # the service reads the hashes where they are
    uninstall(box)
    assert [path in uninstaller.kept(box.places, purge=False) for path in (hashes, own)] == [True, True]
    uninstall(box, purge=True)
    assert not box.places.config.parent.exists()


def test_uninstalling_what_is_not_there_has_nothing_to_do(box):
    assert removal(box) == []
    assert removal(box, purge=True) == []


def test_one_thing_that_stays_does_not_keep_the_rest(box):
    box.install()
    box.manager._stop = lambda: msgspec.structs.replace(
        box.manager._reset_failed(), status=1, errors="Busy\n"
    )
    with pytest.raises(RollbackFailed, match=r"stop edged: .*Busy"):
        uninstaller.carry_out(removal(box, purge=True), box.said.append)
    assert not box.places.config.exists()


def test_a_file_of_another_program_beside_ours_stays(box):
    box.install()
    theirs = box.places.config.parent / "theirs.conf"
    theirs.write_text("")
    uninstall(box, purge=True)
    assert theirs.exists()


def test_the_written_configuration_is_plain_toml_without_defaults(box):
    box.install()
    written = tomllib.loads(box.places.config.read_text())
    assert "engine" not in written
    assert written["model"]["context"] == 2048
    assert tree(box.places.config.parent).keys() == {"edged.toml"}
