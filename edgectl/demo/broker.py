"""An MQTT broker for the demo: mosquitto where it is installed, otherwise amqtt from PyPI."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from typing import TYPE_CHECKING, Literal

from edgectl.demo.processes import Child, wait_for_port
from edgectl.errors import NotFound

if TYPE_CHECKING:
    from pathlib import Path

BrokerKind = Literal["auto", "mosquitto", "amqtt"]

MOSQUITTO = """\
listener {port} 127.0.0.1
allow_anonymous true
persistence false
set_tcp_nodelay true
"""

AMQTT = """\
listeners:
  default:
    type: tcp
    bind: 127.0.0.1:{port}
plugins:
  amqtt.plugins.authentication.AnonymousAuthPlugin:
    allow_anonymous: true
"""


def start_broker(folder: Path, port: int, kind: BrokerKind = "auto") -> Child:
    """A broker on loopback ``port``, listening. Raises NotFound when there is none to start."""
    # Debian puts mosquitto where only root's PATH looks.
    mosquitto = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    if mosquitto and kind != "amqtt":
        config = folder / "mosquitto.conf"
        config.write_text(MOSQUITTO.format(port=port))
        broker = Child("mosquitto", [mosquitto, "-c", str(config)], folder / "broker.log")
    elif kind != "mosquitto" and importlib.util.find_spec("amqtt"):
        config = folder / "amqtt.yaml"
        config.write_text(AMQTT.format(port=port))
        command = [sys.executable, "-m", "amqtt.scripts.broker_script", "-c", str(config)]
        broker = Child("amqtt", command, folder / "broker.log")
    else:
        raise NotFound(
            f"there is no MQTT broker here ({kind})",
            hint="install one: `sudo apt install mosquitto`, or in the checkout `pip install '.[demo]'`",
        )
    try:
        wait_for_port(port, broker)
    except BaseException:
        broker.stop()
        raise
    return broker
