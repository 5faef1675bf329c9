from __future__ import annotations

import msgspec
import pytest

from edgectl.errors import DataInvalid, NotFound
from edgectl.probe import find_profile, load_profiles, match, planned_device, probe_device
from edgectl.resources import data_files
from tests.devices.recorded import build

PROFILES = load_profiles()
IDS = [profile.id for profile in PROFILES]


def decode_tps(profile, model_gb):
    return 1 / (profile.overhead_s + model_gb * 1e9 / profile.bandwidth_bytes_per_s)


def edited(tmp_path, old, new, name="pi5"):
    text = next(file for file in data_files("profiles/devices") if file.stem == name).read_text()
    assert old in text
    (tmp_path / f"{name}.toml").write_text(text.replace(old, new, 1))
    return tmp_path


def test_the_boards_of_the_promise_are_there():
    wanted = {
        "pi4-2gb", "pi4-4gb", "pi4-8gb", "pi5-2gb", "pi5-4gb", "pi5-8gb", "pi5-16gb", "pi500-8gb", "cm5-8gb",
        "orangepi5-16gb", "rock5b-16gb", "n100-16gb", "n150-16gb", "ryzen-7840hs-32gb", "orin-nano",
        "generic-arm64", "generic-x86_64",
    }  # fmt: skip
    assert wanted <= set(IDS)


@pytest.mark.parametrize("profile_id", IDS)
def test_a_planned_device_matches_its_own_profile(profile_id):
    device = planned_device(profile_id)
    found = match(device, PROFILES)
    assert found is not None
    assert found.id == device.profile == profile_id


@pytest.mark.parametrize("profile", PROFILES, ids=IDS)
def test_figures_are_plausible_and_name_their_source(profile):
    device = planned_device(profile.id)
    nominal_bytes = profile.memory_mib << 20
    assert 0.4 * nominal_bytes < device.memory.available_bytes < device.memory.total_bytes < nominal_bytes
    assert 1e9 < profile.bandwidth_bytes_per_s < 2e11
    assert 0 <= profile.overhead_s < 0.1
    assert 1e9 < profile.prefill_params_per_s < 1e13
    assert all(row.source for row in profile.published)
    assert device.cpu.logical_cpus == sum(len(cluster.cpus) for cluster in device.cpu.clusters)


@pytest.mark.parametrize("profile", PROFILES, ids=IDS)
def test_the_speed_law_meets_the_published_qwen_rows(profile):
    sizes_gb = {"qwen3.5-0.8b": 0.53, "qwen3.5-2b": 1.28, "qwen3.5-4b": 2.74, "qwen3.5-9b": 5.68}
    rows = [
        row
        for row in profile.published
        if row.model in sizes_gb and row.quant == "Q4_K_M" and row.engine == profile.engine
    ]
    for row in rows:
        ratio = decode_tps(profile, sizes_gb[row.model]) / row.decode_tps
        assert 0.7 < ratio < 1.35, row


def test_the_size_is_chosen_from_the_memory_the_kernel_reports(tmp_path):
    device = probe_device(build("pi5-8gb", tmp_path))
    without_code = msgspec.structs.replace(
        device, board=msgspec.structs.replace(device.board, nominal_memory_mib=None)
    )
    found = match(without_code, PROFILES)
    assert found is not None
    assert found.id == "pi5-8gb"


@pytest.mark.parametrize(
    ("compatible", "expected"),
    [
        (("raspberrypi,500", "brcm,bcm2712"), "pi500-8gb"),
        (("raspberrypi,5-compute-module", "brcm,bcm2712"), "cm5-8gb"),
        (("somebody,board", "brcm,bcm2712"), "pi5-8gb"),
        (("xunlong,orangepi-5", "rockchip,rk3588s"), "orangepi5-8gb"),
        (("friendlyarm,nanopc-t6", "rockchip,rk3588"), "rock5b-8gb"),
        (("allwinner,h616",), "generic-arm64"),
    ],
)
def test_the_most_specific_profile_wins(compatible, expected):
    device = planned_device("pi5-8gb")
    board = msgspec.structs.replace(device.board, compatible=compatible)
    found = match(msgspec.structs.replace(device, board=board), PROFILES)
    assert found is not None
    assert found.id == expected


def test_no_profile_is_better_than_a_wrong_one():
    device = planned_device("generic-arm64")
    cpu = msgspec.structs.replace(device.cpu, arch="riscv64")
    assert match(msgspec.structs.replace(device, cpu=cpu), PROFILES) is None


@pytest.mark.parametrize(
    ("old", "new", "key", "rule"),
    [
        ("bandwidth_gbps = 9.6", "bandwidth_gbps = -1", "speed.bandwidth_gbps", "> 0"),
        ("bandwidth_gbps = 9.6", "bandwith_gbps = 9.6", "speed", "bandwith_gbps"),
        ('id = "pi5"', 'id = "Pi 5"', "id", "regex"),
        ("estimate = true", 'estimate = "yes"', "speed.estimate", "bool"),
        ("nominal_mib = [2048, 4096", "nominal_mib = [4096, 2048", "memory", "rise"),
        ("os_mib = 350", "os_mib = 3500", "memory", "leaves nothing"),
        ("schema = 1", "schema = 2", "schema", "2"),
        ("compatible = [", "compatible = [1, ", "match.compatible[0]", "str"),
    ],
)
def test_a_broken_entry_names_file_key_and_rule(tmp_path, old, new, key, rule):
    with pytest.raises(DataInvalid) as caught:
        load_profiles(edited(tmp_path, old, new))
    message = caught.value.message
    assert "pi5.toml" in message
    assert f"key {key}:" in message
    assert rule in message


def test_a_file_that_is_not_toml_is_named(tmp_path):
    (tmp_path / "x.toml").write_text("id = ")
    with pytest.raises(DataInvalid, match=r"x\.toml: not TOML"):
        load_profiles(tmp_path)


def test_two_files_cannot_claim_one_id(tmp_path):
    edited(tmp_path, 'name = "Raspberry Pi 5"', 'name = "Copy"')
    (tmp_path / "copy.toml").write_text((tmp_path / "pi5.toml").read_text())
    with pytest.raises(DataInvalid, match=r"pi5\.toml: key id: 'pi5-2gb' is taken"):
        load_profiles(tmp_path)


def test_an_unknown_id_gets_suggestions():
    with pytest.raises(NotFound) as caught:
        find_profile("pi5")
    assert "pi5-8gb" in caught.value.hint
    with pytest.raises(NotFound) as caught:
        find_profile("rock5-16gb")
    assert "rock5b-16gb" in caught.value.hint
