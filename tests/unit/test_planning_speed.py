"""Speed estimates, against published runs and the rules for threads."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from edgectl.device import Cluster
from edgectl.planning.catalog import load_catalog
from edgectl.planning.speed import device_speed, estimate_speed, inference_threads
from edgectl.probe import find_profile, planned_device

CATALOG = load_catalog()
# Published decode speeds in tokens/s, one stream, Q4_K_M, llama.cpp and its relatives on the CPU.
PUBLISHED = [
    ("pi5-8gb", "qwen3.5-2b", 7.8),
    ("pi5-16gb", "qwen3.5-4b", 3.2),
    ("rock5b-16gb", "qwen3.5-0.8b", 12.07),
    ("rock5b-16gb", "qwen3.5-2b", 8.68),
    ("rock5b-16gb", "qwen3.5-4b", 3.62),
    ("rock5b-16gb", "qwen3.5-9b", 2.48),
]


@pytest.mark.parametrize(("profile_id", "model", "published_tps"), PUBLISHED)
def test_the_estimate_is_within_a_quarter_of_published_runs(profile_id, model, published_tps):
    entry, file = CATALOG.find(f"{model}:Q4_K_M")
    speed = device_speed(planned_device(profile_id), find_profile(profile_id))
    estimate = estimate_speed(entry, file, speed)
    assert estimate.decode_tps == pytest.approx(published_tps, rel=0.25)
    assert estimate.kind == "estimated"


def test_the_wait_for_the_first_token_is_prefill_and_one_step():
    entry, file = CATALOG.find("qwen3.5-2b:Q4_K_M")
    estimate = estimate_speed(entry, file, device_speed(planned_device("pi5-8gb"), find_profile("pi5-8gb")))
    assert estimate.ttft_500_s == pytest.approx(500 / estimate.prefill_tps + 1 / estimate.decode_tps)
    assert estimate.ttft_s(500) == pytest.approx(estimate.ttft_500_s)


def test_of_a_mixture_of_experts_only_the_active_share_is_read():
    speed = device_speed(planned_device("ryzen-7840hs-64gb"), find_profile("ryzen-7840hs-64gb"))
    dense = estimate_speed(*CATALOG.find("qwen3.5-27b:Q4_K_M"), speed)
    mixture = estimate_speed(*CATALOG.find("qwen3.5-35b-a3b:Q8_0"), speed)
    assert mixture.decode_tps > 4 * dense.decode_tps


def test_a_quota_takes_threads_and_prefill_away():
    device, profile = planned_device("pi5-8gb"), find_profile("pi5-8gb")
    halved = replace(device, cpu=replace(device.cpu, usable_cpus=2.0))
    full, half = device_speed(device, profile), device_speed(halved, profile)
    assert inference_threads(halved) == 2
    assert half.prefill_params_per_s == full.prefill_params_per_s / 2


def test_threads_are_the_physical_cores_of_the_fastest_cluster():
    assert inference_threads(planned_device("rock5b-8gb")) == 4  # four of eight cores are big
    assert inference_threads(planned_device("ryzen-7840hs-16gb")) == 8  # of 16 hardware threads
    device = planned_device("pi5-8gb")
    tiny = replace(
        device, cpu=replace(device.cpu, usable_cpus=0.5, clusters=(Cluster(name="all", cpus=(0, 1, 2, 3)),))
    )
    assert inference_threads(tiny) == 1


def test_a_computer_without_a_profile_gets_cautious_figures_that_say_so():
    device = planned_device("n100-8gb")
    known, generic = device_speed(device, find_profile("n100-8gb")), device_speed(device, None)
    assert "generic" in generic.source
    assert generic.bandwidth_bytes_per_s <= known.bandwidth_bytes_per_s
    old = replace(device, cpu=replace(device.cpu, features=()))
    assert device_speed(old, None).prefill_params_per_s < generic.prefill_params_per_s
