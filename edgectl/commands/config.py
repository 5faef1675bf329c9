"""`edgectl config`: check a configuration file, show what is in force, explain a key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import click
from msgspec import Struct, structs

from edgectl.client.target import local_config_path
from edgectl.commands.in_force import in_force
from edgectl.errors import Usage
from edgectl.install.unit import CREDENTIALS
from edgectl.output.terminal import emit_json, json_option
from edged.api.config import Config
from edged.api.config_docs import EXPLANATIONS
from edged.api.errors import ConfigInvalid
from edged.host.config import RULES, default_node, load, masked

if TYPE_CHECKING:
    from collections.abc import Iterator

file_argument = click.argument("file", required=False, type=click.Path(path_type=Path))


class Setting(Struct, frozen=True):
    """One key as it is in force, and what it would be if the file did not name it."""

    key: str
    value: Any
    default: Any

    @property
    def differs(self) -> bool:
        return bool(self.value != self.default)


@click.group(
    epilog="""\b
Examples:
  edgectl config check                      is the configuration of this computer valid
  edgectl config show                       every key that is in force
  edgectl config explain mqtt.host          what one key does"""
)
def command() -> None:
    """Check, show and explain the configuration of edged (edged.toml)."""


@command.command(
    epilog="""\b
Examples:
  edgectl config check                      the configuration of this computer
  edgectl config check ./edged.toml         a file before it is put in place

Exit status: 0 the file is valid, 2 it is not; then every problem is listed."""
)
@file_argument
@json_option
def check(file: Path | None, *, as_json: bool) -> None:
    """Check FILE (default: the configuration of this computer) as edged would at its start.

    All problems are listed at once, each with the key, the rule it breaks and, for an unknown key, the
    nearest one that exists. Files that the configuration names but that are not there are mentioned too.
    """
    path = file or local_config_path()
    try:
        config = _load(path)
    except ConfigInvalid as error:
        if as_json:
            emit_json({"file": str(path), "valid": False, "message": error.message, "notes": []})
        raise
    notes = _missing_files(config)
    for missing in notes:
        click.echo(f"Note: {missing}", err=True)
    if as_json:
        emit_json({"file": str(path), "valid": True, "message": "", "notes": notes})
    else:
        click.echo(f"{path} is valid.")


@command.command(
    epilog="""\b
Examples:
  edgectl config show                            every key, as TOML
  edgectl config show --json | jq .differs       what was changed

Exit status: 0, or 2 when the file is not valid."""
)
@file_argument
@json_option
def show(file: Path | None, *, as_json: bool) -> None:
    """Show what is in force: the keys of FILE and the defaults of all others.

    The output is TOML itself. A key that differs from its default says so at the end of its line.
    Values that may be secrets are masked. Without FILE, a model that a job has switched to is shown.
    """
    path = file or local_config_path()
    configured = _load(path)
    config, unknown = in_force(configured, path) if file is None else (configured, "")
    if unknown:
        click.echo(f"Note: {unknown}", err=True)
    found = list(settings(config))
    switched = config.model.path if config.model != configured.model else None
    if as_json:
        differing = [setting.key for setting in found if setting.differs]
        emit_json({"file": str(path), "values": _tree(found), "differs": differing, "switched": switched})
        return
    click.echo(f"# {path} with every default filled in")
    if switched:
        click.echo(f"# but for the model, its cache and plan: a job has put {config.model.name} in its place")
    table = ""
    for setting in sorted(found, key=lambda item: item.key.count(".") > 0):  # bare keys come first in TOML
        parent = setting.key.rpartition(".")[0]
        if parent != table:
            click.echo(f"\n[{parent}]")
            table = parent
        click.echo(_line(setting))


@command.command(
    epilog="""\b
Examples:
  edgectl config explain memory.budget_mib
  edgectl config explain mqtt                    every key of one table
  edgectl config explain                         every key there is"""
)
@click.argument("key", required=False)
def explain(key: str | None) -> None:
    """Say what KEY does, its type, its default and its rules; a table lists its keys."""
    if key is None:
        _list(list(EXPLANATIONS))
        return
    if key not in EXPLANATIONS:
        raise Usage(f"there is no key {key!r}{_close(key)}", hint="`edgectl config explain` lists every key")
    below = [name for name in EXPLANATIONS if name.startswith(f"{key}.")]
    click.echo(f"{click.style(key, bold=True)}: {EXPLANATIONS[key]}")
    if below:
        _list(below)
        return
    setting = next((item for item in settings(Config()) if item.key == key), None)
    click.echo(f"  type     {_type_name(key)}")
    click.echo(f"  default  {_toml(setting.default if setting else None)}")
    for name, rule, _holds in RULES:
        if name == key:
            click.echo(f"  rule     {rule}")


def settings(config: Config) -> Iterator[Setting]:
    """Every key of ``config`` with its value and default, in the order of the file."""
    default = structs.replace(Config(), node=default_node())
    yield from _settings(config, default, "")


def _settings(value: Struct, default: Struct, prefix: str) -> Iterator[Setting]:
    for name in value.__struct_fields__:
        ours, theirs = getattr(value, name), getattr(default, name)
        if isinstance(ours, Struct):
            yield from _settings(ours, theirs, f"{prefix}{name}.")
        elif isinstance(ours, dict):
            for entry, table in ours.items():
                for key in table.__struct_fields__:
                    yield Setting(f"{prefix}{name}.{entry}.{key}", getattr(table, key), None)
        else:
            yield Setting(f"{prefix}{name}", ours, theirs)


@command.command(
    epilog="""\b
Examples:
  edgectl config mosquitto acl | sudo tee /etc/mosquitto/edged.acl
  edgectl config mosquitto conf | sudo tee /etc/mosquitto/conf.d/edged.conf"""
)
@click.argument("name", metavar="acl|conf", type=click.Choice(("acl", "conf")))
def mosquitto(name: str) -> None:
    """Print ready files for the mosquitto broker.

    `acl` keeps devices, boxes, Home Assistant and the operator apart; `conf` is a configuration with TLS that
    uses it.
    """
    from edgectl.resources import data_dir

    click.echo((data_dir("profiles/mosquitto") / f"edged.{name}").read_text(), nl=False)


def _load(path: Path) -> Config:
    try:
        return load(path)
    except ConfigInvalid as error:
        error.hint = "`edgectl config explain KEY` says what a key does and which values it takes"
        if not path.exists():
            error.hint = "name the file if it is somewhere else: `edgectl config check FILE`"
        raise


def _missing_files(config: Config) -> list[str]:
    """Those named that are not there; systemd puts credentials in their place when it starts the service."""
    named = {
        "model.path": config.model.path,
        "mqtt.password_file": config.mqtt.password_file,
        "mqtt.ca_file": config.mqtt.ca_file,
        "mqtt.cert_file": config.mqtt.cert_file,
        "mqtt.key_file": config.mqtt.key_file,
        "http.keys_file": config.http.keys_file,
    }
    missing = []
    for key, name in named.items():
        try:
            if name and not name.startswith(f"{CREDENTIALS}/") and not Path(name).is_file():
                missing.append(f"{key}: there is no file {name}")
        except PermissionError:
            missing.append(f"{key}: you may not look at {name}; edged, as its own user, has to")
    return missing


def _tree(found: list[Setting]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for setting in found:
        *parents, name = setting.key.split(".")
        table = tree
        for parent in parents:
            table = table.setdefault(parent, {})
        hidden = isinstance(setting.value, str) and masked(setting.key, setting.value) == "***"
        table[name] = "***" if hidden and setting.value else setting.value
    return tree


def _line(setting: Setting) -> str:
    name = setting.key.rpartition(".")[2]
    if setting.value is None:
        return f"# {name} is not set"
    hidden = isinstance(setting.value, str) and setting.value and masked(setting.key, setting.value) == "***"
    line = f"{name} = {_toml('***' if hidden else setting.value)}"
    return f"{line:<40}  # default: {_toml(setting.default)}" if setting.differs else line


def _toml(value: Any) -> str:
    if value is None:
        return "not set"
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)


def _list(keys: list[str]) -> None:
    width = max(map(len, keys))
    for name in keys:
        click.echo(f"  {name:<{width}}  {EXPLANATIONS[name]}")


def _close(key: str) -> str:
    import difflib

    last = {name.rpartition(".")[2]: name for name in EXPLANATIONS}
    close = difflib.get_close_matches(key, [*EXPLANATIONS, *last], n=1)
    return f"; did you mean {last.get(close[0], close[0])!r}?" if close else ""


def _type_name(key: str) -> str:
    """The type of ``key`` in the words of TOML."""
    kind: Any = Config
    for name in key.split("."):
        kind = get_type_hints(kind)[name]
    text = kind.__name__ if isinstance(kind, type) else str(kind).replace("typing.", "")
    words = {"str": "text", "int": "whole number", "float": "number", "bool": "true or false"}
    if text.startswith("Literal"):
        return "one of " + text.removeprefix("Literal[").removesuffix("]").replace("'", '"')
    if text.startswith("tuple"):
        return "list of texts"
    if text.startswith("dict"):
        return "named tables"
    return words.get(text.removesuffix(" | None"), text) + (" (optional)" if "None" in text else "")
