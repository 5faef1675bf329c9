"""The predicted tensors of the catalogue's files weigh what the published files weigh."""

from __future__ import annotations

import pytest

from edgectl.errors import DataInvalid
from edgectl.models.quant_mix import tensor_types
from edgectl.models.tensor_plan import TensorSpec, follows_rules, tensor_plan, weights_bytes
from edgectl.models.tensor_shapes import ARCHITECTURES, tensor_shapes
from edgectl.planning.catalog import load_catalog

MODELS = {entry.id: entry for entry in load_catalog().models}
QWENS = sorted(name for name in MODELS if name.startswith("qwen3.5"))
FILES = [(name, file.quant) for name in QWENS for file in MODELS[name].files]
RULED = [(name, quant) for name, quant in FILES if follows_rules(MODELS[name].geometry, quant)]
UNRULED = sorted(set(FILES) - set(RULED))

# A second publisher's files of the 4B, made with llama.cpp's own mixtures; bytes as published.
STOCK_4B = {
    "Q3_K_S": 2069875520, "Q3_K_M": 2257472320, "Q4_K_S": 2557002560, "Q4_K_M": 2707510080,
    "Q5_K_S": 2990031680, "Q5_K_M": 3108754240, "Q6_K": 3464051520, "Q8_0": 4482399040,
}  # fmt: skip


def weights(name: str, quant: str, **options: int) -> int:
    entry = MODELS[name]
    return weights_bytes(tensor_plan(entry.arch, entry.geometry, quant, **options))


@pytest.mark.parametrize("name", QWENS)
def test_all_files_of_a_model_leave_the_same_remainder_for_their_header(name):
    quants = [quant for model, quant in RULED if model == name]
    remainders = {MODELS[name].file(quant).bytes - weights(name, quant) for quant in quants}
    assert len(remainders) == 1
    assert 10_950_000 < remainders.pop() < 11_010_000


@pytest.mark.parametrize("name", QWENS)
def test_an_unquantized_file_has_the_parameters_of_the_catalogue(name):
    entry = MODELS[name]
    specs = tensor_plan(entry.arch, entry.geometry, "F32")
    assert weights_bytes(specs) == entry.text_parameters * 4


def test_most_files_of_the_catalogue_follow_rules():
    assert (len(RULED), len(UNRULED)) == (41, 12)


def test_without_the_publishers_changes_the_mixtures_are_those_of_llama_cpp():
    entry = MODELS["qwen3.5-4b"]
    shapes = tensor_shapes(entry.arch, entry.geometry)
    remainders = set()
    for quant, size_bytes in STOCK_4B.items():
        types = tensor_types(shapes, entry.geometry, quant, publisher=False)
        specs = [TensorSpec(name, shape, kind) for (name, shape), kind in zip(shapes, types, strict=True)]
        remainders.add(size_bytes - weights_bytes(specs))
    assert len(remainders) == 1


@pytest.mark.parametrize(("name", "quant"), UNRULED)
def test_a_file_without_rules_is_met_in_size(name, quant):
    published = MODELS[name].file(quant).bytes - 10_961_696
    planned = weights(name, quant, published_bytes=published)
    assert 0 <= published - planned < published // 1000


def test_a_shallower_file_without_rules_keeps_its_bits_a_weight():
    entry = MODELS["qwen3.5-4b"]
    published = entry.file("UD-Q4_K_XL").bytes - 10_961_696
    plain = weights("qwen3.5-4b", "Q4_K_S", layers=8) / weights("qwen3.5-4b", "Q4_K_S")
    enlarged = weights("qwen3.5-4b", "UD-Q4_K_XL", layers=8, published_bytes=published)
    assert enlarged == pytest.approx(plain * published, rel=0.002)


def test_q6_k_has_the_tensors_that_a_published_load_log_counts():
    entry = MODELS["qwen3.5-4b"]
    kinds = [spec.ggml_type for spec in tensor_plan(entry.arch, entry.geometry, "Q6_K")]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {"F32": 177, "Q8_0": 72, "Q6_K": 177}


def test_rows_that_blocks_of_256_do_not_divide_get_smaller_blocks():
    entry = MODELS["smollm2-135m-instruct"]  # 576 wide
    specs = {spec.name: spec for spec in tensor_plan(entry.arch, entry.geometry, "Q4_K_M")}
    assert specs["blk.9.attn_q.weight"].ggml_type == "Q5_0"
    assert specs["blk.0.attn_v.weight"].ggml_type == "Q8_0"
    assert specs["blk.9.ffn_down.weight"].ggml_type in {"Q4_K", "Q6_K"}  # 1,536 wide
    assert specs["token_embd.weight"].ggml_type == "Q8_0"


def test_an_unknown_architecture_is_named_with_the_known_ones():
    with pytest.raises(DataInvalid, match="'mamba'") as caught:
        tensor_shapes("mamba", MODELS["qwen3.5-4b"].geometry)
    assert all(name in caught.value.hint for name in ARCHITECTURES)


def test_an_unknown_mixture_is_named():
    with pytest.raises(DataInvalid, match="'Q9_X'"):
        weights("qwen3.5-4b", "Q9_X")


@pytest.mark.parametrize("layers", [0, 33, -1])
def test_a_depth_that_the_network_has_not_is_refused(layers):
    with pytest.raises(DataInvalid, match="32 layers"):
        weights("qwen3.5-4b", "Q4_K_M", layers=layers)


def test_a_hybrid_is_cut_between_whole_groups_of_layers():
    with pytest.raises(DataInvalid, match="groups of 4"):
        weights("qwen3.5-4b", "Q4_K_M", layers=6)
