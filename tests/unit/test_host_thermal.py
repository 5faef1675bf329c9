from __future__ import annotations

import pytest

from edged.host import thermal
from tests.devices.recorded import build


def zone(root, number, name, millidegrees):
    directory = root / f"sys/class/thermal/thermal_zone{number}"
    directory.mkdir(parents=True)
    (directory / "type").write_text(name)
    (directory / "temp").write_text(str(millidegrees))


def test_the_hottest_plausible_zone_wins(tmp_path):
    zone(tmp_path, 0, "soc", 50000)
    zone(tmp_path, 1, "cpu", 61500)
    zone(tmp_path, 2, "broken", 65535000)
    zone(tmp_path, 3, "off", -274000)
    assert thermal.hottest_zone(tmp_path) == thermal.Zone("cpu", 61.5)


def test_no_sensor_is_none(tmp_path):
    assert thermal.hottest_zone(tmp_path) is None
    assert thermal.throttling(tmp_path) is None
    assert thermal.governor(tmp_path) is None


@pytest.mark.parametrize(
    ("bits", "now", "since_boot"),
    [
        (0x0, (), ()),
        (0x50005, ("under-voltage", "throttled"), ("under-voltage", "throttled")),
        (0x8, ("soft temperature limit",), ()),
        (0xA0002, ("frequency capped",), ("frequency capped", "soft temperature limit")),
    ],
)
def test_the_throttle_bits_mean_what_the_firmware_says(bits, now, since_boot):
    assert thermal.decode_throttled(bits) == thermal.Throttling(now, since_boot)


def test_the_firmware_file_is_hexadecimal(tmp_path):
    found = thermal.throttling(build("pi5-8gb", tmp_path))
    assert found is not None
    assert "under-voltage" in found.now


def test_the_supply_sensor_stands_in_for_the_firmware_file(tmp_path):
    directory = tmp_path / "sys/class/hwmon/hwmon1"
    directory.mkdir(parents=True)
    (directory / "name").write_text("rpi_volt\n")
    (directory / "in0_lcrit_alarm").write_text("1\n")
    assert thermal.throttling(tmp_path) == thermal.Throttling(("under-voltage",), ())
