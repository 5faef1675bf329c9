"""What an installation should look like: the configuration and the unit for a plan. Pure."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct, structs

from edgectl.errors import Usage
from edgectl.install.config_text import config_text
from edgectl.install.manifest import Options
from edgectl.install.unit import CREDENTIALS, UnitFacts, credential_sources, unit_text
from edgectl.planning.plan import Plan
from edged.api.config import Config
from edged.api.config import Plan as Promised
from edged.api.errors import ConfigInvalid
from edged.api.requests import Sampling
from edged.host.config import parse

if TYPE_CHECKING:
    from edgectl.install.code import Code
    from edgectl.install.places import Places
    from edgectl.planning.catalog import Sampling as Preset

MIB = 1 << 20
FAKE_SUFFIX = ".fake"  # a script for the fake engine, which answers without a model
# Credential → the key of [mqtt] that names its file. The certificates are no secrets, but their files may lie
# where the service's own user does not look.
CREDENTIAL_FILES = {
    "mqtt-password": "password_file",
    "mqtt-ca": "ca_file",
    "mqtt-cert": "cert_file",
    "mqtt-key": "key_file",
}


class Chosen(Struct, frozen=True, kw_only=True):
    """The plan, the file that holds its model, and the board for people to read."""

    plan: Plan
    model_path: Path
    sha256: str
    board: str = ""


class Desired(Struct, frozen=True, kw_only=True):
    """The two files of an installation, and the configuration that one of them says."""

    config: Config
    config_text: str
    unit_text: str


class Before(Struct, frozen=True, kw_only=True):
    """What is there already: the configuration in force (None: none, or a broken one) and the unit's text.

    ``options`` are those of earlier installations.
    """

    config: Config | None = None
    unit: str = ""
    options: Options = Options()


def desired(
    options: Options, chosen: Chosen, places: Places, code: Code, before: Before, *, systemd_version: int
) -> Desired:
    """The files for ``chosen``.

    What a person set in the configuration before stays, but for ``options`` and for what the plan decides in
    [model], [memory] and [plan], which is written anew. What earlier options said is in that configuration;
    they count again where it is lost, or the unit that named the files of its credentials.

    Raises ConfigInvalid when the options break a rule of the configuration, Usage for a path that a unit
    cannot hold, or a credential whose file nothing names any more.
    """
    if before.config is None:
        options = options.over(before.options)
    config = with_plan(_with_options(before.config or Config(), options), chosen)
    if places.user:
        secrets: tuple[tuple[str, Path], ...] = ()
        config = structs.replace(config, state_dir=str(places.state))
    else:
        config, secrets = _with_credentials(config, before)
    text = config_text(config)
    facts = UnitFacts(
        code=code,
        config_path=places.config,
        model_path=chosen.model_path,
        model_bytes=chosen.plan.file.bytes,
        memory_max_bytes=chosen.plan.unit_memory_max_bytes,
        threads=chosen.plan.threads,
        systemd_version=systemd_version,
        user=places.user,
        secrets=secrets,
    )
    try:
        checked = parse(tomllib.loads(text), "the configuration that these options make")
    except ConfigInvalid as error:
        error.hint = f"nothing was changed; give other options, or mend what {places.config} has"
        raise
    return Desired(config=checked, config_text=text, unit_text=unit_text(facts))


def _with_options(config: Config, options: Options) -> Config:
    mqtt = _given(
        host=options.mqtt_host,
        port=options.mqtt_port,
        username=options.mqtt_username,
        password_file=options.mqtt_password_file,
        ca_file=options.mqtt_ca_file,
        cert_file=options.mqtt_cert_file,
        key_file=options.mqtt_key_file,
    )
    http = _given(port=options.http_port)
    return structs.replace(
        config,
        mqtt=structs.replace(config.mqtt, **mqtt),
        http=structs.replace(config.http, **http),
        **_given(node=options.node),
    )


def with_plan(config: Config, chosen: Chosen) -> Config:
    plan = chosen.plan
    model = structs.replace(
        config.model,
        path=str(chosen.model_path),
        name=plan.model,
        quant=plan.quant,
        sha256=chosen.sha256,
        backend="fake" if chosen.model_path.suffix == FAKE_SUFFIX else "llama",
        context=plan.context_tokens,
        slots=plan.slots,
        ubatch=plan.ubatch,
        threads=0,  # the daemon tries which number is best, beside whatever else runs
        kv_type=plan.kv_type,
        mmap=plan.mmap,
        repack=plan.repack,
        thinking=plan.thinking,
        sampling=_sampling(plan.sampling.non_thinking),
        sampling_thinking=_sampling(plan.sampling.thinking),
    )
    files_bytes = plan.memory.weights_bytes + plan.memory.library_bytes
    memory = structs.replace(
        config.memory,
        budget_mib=-(-plan.worker_budget_bytes // MIB),
        cache_mib=plan.cache_mib,
        # The worker's own group also holds the pages of the files that it maps.
        cgroup_max_mib=-(-(files_bytes + plan.worker_budget_bytes) // MIB),
    )
    promised = Promised(
        decode_tps=round(plan.speed.decode_tps, 2),
        first_token_500_s=round(plan.speed.ttft_500_s, 2),
        worker_mib=-(-(plan.memory.anon_bytes - plan.memory.repacked_bytes) // MIB),
        speed=plan.speed.kind,
    )
    return structs.replace(config, board=chosen.board, model=model, memory=memory, plan=promised)


def _sampling(preset: Preset | None) -> Sampling:
    """The preset of the catalogue as the daemon knows it."""
    given = structs.asdict(preset) if preset else {}
    return Sampling(**{name: given[name] for name in Sampling.__struct_fields__ if name in given})


def _with_credentials(config: Config, before: Before) -> tuple[Config, tuple[tuple[str, Path], ...]]:
    """``config`` reading its secrets where systemd puts them, and the files that systemd takes them from.

    The service's user cannot read a file that is root's alone, and need not.
    """
    sources = credential_sources(before.unit)
    secrets: list[tuple[str, Path]] = []
    for name, key in CREDENTIAL_FILES.items():
        handed_over = f"{CREDENTIALS}/{name}"
        configured = getattr(config.mqtt, key)
        source = configured
        if configured == handed_over:
            source = sources.get(name) or getattr(before.options, f"mqtt_{key}")
            if not source:
                raise Usage(
                    f"mqtt.{key} is {handed_over}, and neither the unit nor the record of the installation "
                    "tells from which file",
                    hint=f"set mqtt.{key} to the path of the file itself",
                )
        if source:
            secrets.append((name, Path(source)))
            config = structs.replace(config, mqtt=structs.replace(config.mqtt, **{key: handed_over}))
    return config, tuple(secrets)


def _given(**values: object) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
