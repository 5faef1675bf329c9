"""`edgectl install`: choose, fetch, install, prove; or leave everything as it was."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgectl.errors import NeedsRoot, Usage

if TYPE_CHECKING:
    from edgectl.install.manifest import Options

EPILOG = """\b
Examples:
  sudo edgectl install                                   choose what suits this computer
  sudo edgectl install --model qwen3.5-2b --yes          a certain model, no questions
  sudo edgectl install --mqtt-host broker.lan            the broker is on another computer
  edgectl install --dry-run                              show every file and step, change nothing
  edgectl install --user --model smollm2-135m-instruct   for yourself alone, without root

\b
Files (system · --user):
  /etc/systemd/system/edged.service · ~/.config/systemd/user/edged.service
  /etc/edged/edged.toml             · ~/.config/edged/edged.toml
  /var/lib/edged (models, state)    · ~/.local/share/edged
  /var/lib/edged-install (record)   · ~/.local/share/edged-install

\b
A second install keeps what the first one was told, unless it is told otherwise; --model auto chooses
anew. When a step fails, or you press Ctrl-C, or the line drops, everything is put back, and a service that
ran before runs again; after a power cut or kill -9 the next install does that first. A fetched model
file stays in the store.

\b
Exit codes: 0 installed, or nothing to change · 2 usage, or you said no · 3 nothing fits, or no space ·
4 no systemd · 6 installed like this already, and not ready; or systemd refused · 7 failed and rolled back, or
the output was closed before anything was changed · 8 rollback failed too · 9 wrong bytes · 10 needs root ·
75 try again · 130 stopped before anything was changed"""


@click.command(epilog=EPILOG)
@click.option("--user", is_flag=True, help="Install for yourself alone, as a user service, without root.")
@click.option("--model", metavar="MODEL[:QUANT]", help="Model of the catalogue. [default: what suits best]")
@click.option("--quant", metavar="QUANT", help="Quantization of the model.")
@click.option("--model-file", type=click.Path(path_type=Path), metavar="PATH",
              help="A GGUF file of your own; it stays where it is.")  # fmt: skip
@click.option("--context", "context_tokens", type=click.IntRange(min=1), metavar="TOKENS",
              help="Context of each request, prompt and answer. [default: 4096, or what fits]")  # fmt: skip
@click.option("--concurrency", "slots", type=click.IntRange(min=1), metavar="N",
              help="Requests worked on at once. [default: 2, or what fits]")  # fmt: skip
@click.option("--reserve", "reserve_mib", type=click.IntRange(min=0), metavar="MIB",
              help="Memory left to everything else. [default: by what else runs here]")  # fmt: skip
@click.option("--mqtt-host", metavar="HOST", help="The MQTT broker. [default: 127.0.0.1]")
@click.option("--mqtt-port", type=click.IntRange(1, 65535), metavar="PORT", help="[default: 1883]")
@click.option("--mqtt-username", metavar="NAME", help="Name for the broker; needs --mqtt-password-file.")
@click.option("--mqtt-password-file", type=click.Path(path_type=Path), metavar="PATH",
              help="File with the broker's password; only root needs to be able to read it.")  # fmt: skip
@click.option("--mqtt-ca-file", type=click.Path(path_type=Path), metavar="PATH",
              help="Authority that signed the broker's certificate (PEM); switches TLS on.")  # fmt: skip
@click.option("--mqtt-cert-file", type=click.Path(path_type=Path), metavar="PATH",
              help="Certificate of this box, where the broker asks for one (PEM).")  # fmt: skip
@click.option("--mqtt-key-file", type=click.Path(path_type=Path), metavar="PATH",
              help="Its private key; only root needs to be able to read it.")  # fmt: skip
@click.option("--http-port", type=click.IntRange(1, 65535), metavar="PORT", help="[default: 8642]")
@click.option("--node", metavar="NAME", help="Name of this box in topics. [default: the host name]")
@click.option("--dry-run", is_flag=True, help="Print every file and step, and change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--no-start", is_flag=True, help="Enable the service, but leave starting it to the next boot.")
def command(*, user: bool, dry_run: bool, yes: bool, no_start: bool, **given: Any) -> None:
    """Install edged as a service and prove that it answers.

    Looks at this computer, picks the model that runs well on it, fetches the file, writes a configuration
    and a locked-down systemd unit, starts the service, waits until the model is loaded, asks it something
    real, and shows what was predicted beside what was measured. All or nothing.
    """
    from edgectl.commands.installing import Session
    from edgectl.output.outcome import unread_is_failure

    options = _options(given)
    if not dry_run:
        require_right_user("install", user=user)
    session = Session(user=user)
    if dry_run:
        session.show(options, start=not no_start)
        return
    with unread_is_failure():
        session.install(options, yes=yes, start=not no_start)


def require_right_user(verb: str, *, user: bool) -> None:
    """Raises NeedsRoot for the system's service without root, Usage for a user's service with sudo."""
    line = shlex.join([str(Path(sys.argv[0]).absolute()), *sys.argv[1:]])
    if user and os.environ.get("SUDO_USER"):
        raise Usage(
            f"--user {verb}s for the user who runs it, and sudo makes that root", hint="run it without sudo"
        )
    if not user and os.geteuid() != 0:
        raise NeedsRoot(
            f"edgectl {verb} changes the system, which only root may",
            hint=f"sudo {line}\n    or for yourself alone, without root: {line} --user",
        )


PATHS = ("model_file", "mqtt_password_file", "mqtt_ca_file", "mqtt_cert_file", "mqtt_key_file")


def _options(given: dict[str, Any]) -> Options:
    from edgectl.install.manifest import Options

    for name in PATHS:
        if given[name] is not None:
            # Without "..", which systemd does not take; links stay, since a renewal swaps what they name.
            given[name] = os.path.abspath(given[name].expanduser())  # noqa: PTH100 - resolve() follows links
    return Options(**given)
