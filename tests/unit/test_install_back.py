"""The way back of an installation: nobody reads, the service was not well before, files are odd."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import msgspec
import pytest

from edgectl.cli import cli
from edgectl.errors import RollbackFailed, RolledBack, Unhealthy
from edgectl.install import uninstaller
from edgectl.install.change import JOURNAL, Journal, exclusive
from edgectl.install.host import ANSWER_S
from edgectl.install.installer import compare, look
from edgectl.install.manifest import MANIFEST, Options, read_manifest
from edgectl.install.operations import KeepState
from edgectl.install.runner import Completed, ProgramMissing
from edgectl.install.systemd import Systemd
from edgectl.output.outcome import run
from edged.api.errors import Busy, MemoryGuard, Thermal
from tests.kit.installation import CODE, COMPUTER, Box

NOBODY = 65534
ODD = b"# caf\xe9\nnot = [toml"


@pytest.fixture
def box(tmp_path):
    return Box(tmp_path)


def state(box):
    return Systemd(box.manager, user=False).state()


def verdict(box, options=None):
    return compare(look(box.places), options or Options(), COMPUTER, CODE.command, state(box))


def mute(error):
    def say(_text):
        raise error

    return say


# --- nobody reads what is said

DEAF = [
    BrokenPipeError(32, "Broken pipe"),
    OSError(5, "Input/output error"),
    OSError(28, "No space"),
    SystemExit(1),
]


@pytest.mark.parametrize("error", DEAF, ids=lambda error: f"{type(error).__name__}-{error.args[0]}")
def test_what_failed_is_undone_though_nobody_can_be_told(box, error):
    before = box.everything()
    box.say, box.client.broken = mute(error), Unhealthy("no answer")
    with pytest.raises(RolledBack, match="no answer"):
        box.install()
    assert box.everything() == before


def test_what_a_killed_run_left_is_undone_though_nobody_can_be_told(box):
    before = box.everything()
    _begin(box)
    box.say = mute(OSError(5, "Input/output error"))
    assert box.recover()
    assert box.everything() == before


def test_an_installation_goes_on_though_nobody_reads_it(box):
    box.say = mute(BrokenPipeError(32, "Broken pipe"))
    box.install()
    assert verdict(box) == "same"


def _begin(box, options=None):
    """As if the power went after the last step, before all was said to be done."""
    with exclusive(box.places.record):
        journal = Journal(box.places.record / JOURNAL)
        for step in box.steps(options):
            journal.record(step)
            step.do(box.host)


# --- a service that was not ready before


def _never_ready(box):
    """Everything of a box with a service that starts and never gets there."""
    box.install(Options(context_tokens=1024))
    box.manager.fails, box.manager.fails_with = "never-ready", "context = 1024"
    box.host.systemd.stop()
    box.host.systemd.start()
    return box.everything()


def test_a_service_that_was_not_ready_before_is_started_and_not_waited_for(box):
    before = _never_ready(box)
    box.client.broken = Unhealthy("no answer")
    with pytest.raises(RolledBack, match="no answer"):
        box.install(Options(context_tokens=2048))
    assert box.everything() == before
    assert state(box).active == "activating"


def test_a_killed_repair_of_a_service_that_was_not_ready_is_undone_without_waiting(box):
    before = _never_ready(box)
    _begin(box, Options(context_tokens=2048))
    assert box.recover()
    assert box.everything() == before


def test_a_service_that_was_ready_before_and_is_not_again_is_told(box):
    box.install(Options(context_tokens=1024))
    start = box.manager._start

    def starting():  # the configuration before loads no more
        box.manager.fails, box.manager.fails_with = "exit-code", "context = 1024"
        return start()

    box.manager._start, box.client.broken = starting, Unhealthy("no answer")
    with pytest.raises(RollbackFailed, match=r"stop the running edged: edged did not start"):
        box.install(Options(context_tokens=2048))


def test_no_start_is_waited_for_by_systemctl(box):
    box.install(Options(context_tokens=1024))
    box.client.broken = Unhealthy("no answer")
    with pytest.raises(RolledBack):
        box.install(Options(context_tokens=2048))
    starts = [call for call in box.manager.calls if "start" in call]
    assert len(starts) == 3
    assert all("--no-block" in call for call in starts)


def test_a_service_that_is_still_starting_is_not_called_stopped(box):
    box.install()
    box.manager.active, box.manager.activating = False, True
    assert verdict(box) == "starting"


def test_a_failed_unit_whose_start_is_queued_is_waited_for(box):
    box.install()
    show, queued = box.manager._show, iter([True, True])

    def with_job():
        done = show()
        if not next(queued, False):
            return done
        said = done.output.replace("ActiveState=active", "ActiveState=failed")
        return msgspec.structs.replace(done, output=said + "Job=7\n")

    box.manager._show = with_job
    box.host.wait_ready(5)
    assert next(queued, None) is None


# --- the proof


def test_a_box_that_makes_vectors_can_be_installed_again(box):
    box.install()
    config = box.places.config
    config.write_text(config.read_text().replace("[model]\n", "[model]\nembeddings = true\n"))
    box.client.embeds = True
    box.install(Options(context_tokens=1024))
    assert verdict(box) == "same"


def test_refusals_that_pass_are_waited_out_as_the_box_says(box):
    box.client.refusals = [
        Busy("full", retry_after_s=7), Thermal("hot"), MemoryGuard("short of memory", retry_after_s=3)
    ]  # fmt: skip
    box.install()
    assert [wait_s for wait_s in box.slept if wait_s >= 1] == [3, 5, 7]


def test_a_box_that_stays_busy_is_not_waited_for_without_end(box):
    before = box.everything()
    box.client.refusals = [Busy("full", retry_after_s=20) for _ in range(99)]
    with pytest.raises(RolledBack, match="full"):
        box.install()
    assert 0 < sum(box.slept) <= ANSWER_S
    assert box.everything() == before


# --- files that are no plain text of ours


def test_a_configuration_that_is_not_utf_8_is_kept_beside_and_comes_back_byte_for_byte(box):
    config = box.places.config
    config.parent.mkdir()
    config.write_bytes(ODD)
    before = box.everything()
    box.client.broken = Unhealthy("no answer")
    with pytest.raises(RolledBack, match="no answer"):
        box.install()
    assert box.everything() == before
    box.client.broken = None
    box.install()
    assert box.places.backup.read_bytes() == ODD


def test_a_configuration_that_is_not_utf_8_can_be_removed(box):
    box.install()
    box.places.config.write_bytes(ODD)
    assert uninstaller.kept(box.places, purge=False)[0] == box.places.config
    uninstaller.carry_out(uninstaller.removal(box.places, box.host, state(box), purge=False), box.say)
    assert box.places.config.read_bytes() == ODD
    uninstaller.carry_out(uninstaller.removal(box.places, box.host, state(box), purge=True), box.say)
    assert not box.places.config.exists()


def test_mode_and_link_of_a_configuration_come_back_and_its_copy_is_as_closed(box):
    elsewhere = box.root / "mine.toml"
    elsewhere.write_bytes(ODD)
    elsewhere.chmod(0o600)
    box.places.config.parent.mkdir()
    box.places.config.symlink_to(elsewhere)
    before = box.everything()
    box.client.broken = Unhealthy("no answer")
    with pytest.raises(RolledBack):
        box.install()
    assert box.everything() == before
    box.places.config.unlink()
    elsewhere.rename(box.places.config)
    with pytest.raises(RolledBack):
        box.install()
    assert box.places.config.stat().st_mode & 0o777 == 0o600
    box.client.broken = None
    box.install()
    assert box.places.backup.stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_the_owner_of_a_configuration_comes_back(box):
    box.places.config.parent.mkdir()
    box.places.config.write_text("not = [toml")
    os.chown(box.places.config, 1234, 2345)
    box.client.broken = Unhealthy("no answer")
    with pytest.raises(RolledBack):
        box.install()
    about = box.places.config.stat()
    assert (about.st_uid, about.st_gid) == (1234, 2345)


def test_a_damaged_journal_is_named(box):
    box.places.record.mkdir(parents=True)
    (box.places.record / JOURNAL).write_bytes(b'{"step":"put-file"}\n')
    with pytest.raises(RollbackFailed, match=rf"{box.places.record / JOURNAL} says .* is damaged"):
        box.recover()


# --- what the record says


def test_the_record_can_be_read_by_everybody(box):
    box.install()
    assert (box.places.record / MANIFEST).stat().st_mode & 0o777 == 0o644


def test_lingering_that_the_system_refused_is_not_ours_to_take_back(box):
    box.manager.may_linger = False
    box.install(lingering="me")
    box.manager.may_linger = box.manager.linger = True  # by somebody else, later
    uninstaller.carry_out(uninstaller.removal(box.places, box.host, state(box), purge=True), box.say)
    assert box.manager.linger


def test_the_record_stays_as_long_as_something_else_is_left(box):
    box.install(lingering="me")
    stop, box.manager._stop = box.manager._stop, lambda: Completed(status=1, errors="Busy\n")
    steps = uninstaller.removal(box.places, box.host, state(box), purge=True)
    with pytest.raises(RollbackFailed, match="Busy"):
        uninstaller.carry_out(steps, box.say)
    assert read_manifest(box.places.record) is not None
    box.manager._stop = stop
    uninstaller.carry_out(uninstaller.removal(box.places, box.host, state(box), purge=True), box.say)
    assert read_manifest(box.places.record) is None


def test_what_was_installed_beside_a_running_service_and_not_started_is_not_the_same(box):
    box.install(Options(context_tokens=1024))
    running = box.manager.running
    box.install(Options(context_tokens=2048), start=False)
    assert (box.manager.running, verdict(box)) == (running, "different")
    box.install()
    assert verdict(box) == "same"


def test_files_that_a_purge_leaves_are_named(box):
    secret = box.root / "mqtt.pw"
    secret.write_text("canary")
    box.install(Options(mqtt_username="box", mqtt_password_file=str(secret)))
    assert uninstaller.kept(box.places, purge=True) == [secret]


# --- a dry run without root


@pytest.fixture
def closed():
    """A box whose state only root may look into, seen by somebody else."""
    if os.geteuid() != 0:
        pytest.skip("only root makes folders that this user may not look into")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        box = Box(Path(folder))
        box.install()
        box.places.private.parent.chmod(0o700)
        os.seteuid(NOBODY)
        yield box
        os.seteuid(0)


def test_what_would_be_done_is_told_to_a_user_who_may_not_look_into_everything(closed):
    steps = closed.steps(Options(context_tokens=1024))
    keep = next(step for step in steps if isinstance(step, KeepState))
    assert (keep.kind, keep.names) == ("link", None)
    assert verdict(closed) == "same"
    removal = uninstaller.removal(closed.places, closed.host, state(closed), purge=True)
    assert f"remove {closed.places.state} with all models" in [step.describe for step in removal]
    assert closed.places.state in uninstaller.kept(closed.places, purge=False)


def test_a_state_that_nobody_looked_into_is_left_alone_by_the_way_back(box):
    box.install()
    before = box.everything()
    keep = KeepState(state=str(box.places.state), private=str(box.places.private), kind="link", names=None)
    keep.undo(box.host)
    assert box.everything() == before


def test_a_path_that_a_user_may_not_look_at_is_named_with_what_to_do(closed, capsys):
    path = closed.places.private.parent / "x.gguf"
    for words in (("models", "import"), ("models", "inspect"), ("config", "check")):
        assert run(cli, [*words, str(path)]) == 10
        said = capsys.readouterr().err
        assert str(path) in said
        assert "defect" not in said


# --- programs that are missing


def test_without_systemctl_the_computer_is_unsupported_and_without_loginctl_nothing_lingers():
    def missing(command, _timeout_s):
        raise ProgramMissing(f"{command[0]} is not on this computer")

    systemd = Systemd(missing, user=True)
    assert not systemd.lingers("me")
    with pytest.raises(Exception, match="systemctl is not on this computer") as caught:
        systemd.version()
    assert caught.value.code == "device_unsupported"


def test_the_log_of_a_unit_that_is_gone_again_is_where_journalctl_says(box):
    box.manager.fails = "exit-code"
    with pytest.raises(RolledBack) as caught:
        box.install()
    assert "`journalctl --unit=edged.service`" in caught.value.hint
