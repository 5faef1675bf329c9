"""The catalogue: what is shipped is sound, and a broken entry says where and why."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgectl.errors import DataInvalid, NotFound
from edgectl.planning.catalog import Catalog, load_catalog, read_entry
from edgectl.resources import data_dir

QWEN = ("qwen3.5-0.8b", "qwen3.5-2b", "qwen3.5-4b", "qwen3.5-9b", "qwen3.5-27b", "qwen3.5-35b-a3b")


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load_catalog()


def entry_text(name: str = "qwen3.5-2b") -> str:
    return (data_dir("profiles/models") / f"{name}.toml").read_text()


def write(folder: Path, text: str, name: str = "broken.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_the_catalogue_holds_qwen35_in_every_size_and_one_demo_model(catalog):
    assert {model.id for model in catalog.models if not model.demo} == set(QWEN)
    assert [model.id for model in catalog.models if model.demo] == ["smollm2-135m-instruct"]


def test_every_model_has_a_pinned_file_and_no_file_is_below_three_bits(catalog):
    for model in catalog.models:
        assert any(file.pullable for file in model.files), model.id
        assert not any("Q2" in file.quant or "Q1" in file.quant for file in model.files), model.id
        assert [file.bytes for file in model.files] == sorted(file.bytes for file in model.files)


def test_larger_files_of_a_model_lose_less_except_for_the_plain_4_bit_type(catalog):
    for model in catalog.models:
        losses = [file.kld for file in model.files if file.quant != "Q4_0" and "_S" not in file.quant]
        assert losses == sorted(losses, reverse=True), model.id


def test_hashes_are_unique(catalog):
    hashes = [file.sha256 for model in catalog.models for file in model.files if file.sha256]
    assert len(hashes) == len(set(hashes))


@pytest.mark.parametrize("name", QWEN)
def test_the_quality_index_is_the_mean_of_two_published_scores(catalog, name):
    model = catalog.model(name)
    scores = [model.score(benchmark).thinking for benchmark in ("MMLU-Pro", "IFEval")]
    assert model.quality.index == pytest.approx(sum(scores) / 2, abs=0.06)


@pytest.mark.parametrize("name", QWEN)
def test_file_sizes_agree_with_parameters_and_bits(catalog, name):
    model = catalog.model(name)
    bits = {"Q3_K_M": (3.7, 5.1), "Q4_K_M": (4.8, 5.8), "Q8_0": (8.4, 8.8)}
    for quant, (least, most) in bits.items():
        assert least < model.file(quant).bytes * 8 / model.text_parameters < most, quant


def test_a_model_is_found_in_any_case_and_with_or_without_a_quantization(catalog):
    entry, file = catalog.find("Qwen3.5-2B:q6_k")
    assert (entry.id, file.quant) == ("qwen3.5-2b", "Q6_K")
    assert catalog.find("qwen3.5-2b")[1].quant == "Q4_K_M"
    assert catalog.find("qwen3.5-35b-a3b")[1].quant == "Q8_0"  # the only one with a pinned hash


@pytest.mark.parametrize(
    ("spec", "expected"),
    [("qwen3.5-2", "qwen3.5-2b"), ("smollm2", "smollm2-135m-instruct"), ("qwen3.5-4b:Q4_K_MM", "Q4_K_M")],
)
def test_a_wrong_name_gets_the_nearest_one_as_a_hint(catalog, spec, expected):
    with pytest.raises(NotFound) as caught:
        catalog.find(spec)
    assert f"did you mean {expected}?" in caught.value.hint


def test_urls_come_from_the_models_source_hub_first(catalog):
    _, file = catalog.find("qwen3.5-2b:Q4_K_M")
    hub, mirror = file.urls
    assert hub == (
        "https://huggingface.co/unsloth/Qwen3.5-2B-GGUF/resolve/"
        "f6d5376be1edb4d416d56da11e5397a961aca8ae/Qwen3.5-2B-Q4_K_M.gguf"
    )
    assert (
        mirror == "https://modelscope.cn/models/unsloth/Qwen3.5-2B-GGUF/resolve/master/Qwen3.5-2B-Q4_K_M.gguf"
    )


def test_a_file_without_a_hash_cannot_be_pulled(catalog):
    assert not catalog.model("qwen3.5-2b").file("Q3_K_M").pullable


@pytest.mark.model
def test_the_demo_model_is_the_file_that_its_package_carries(catalog):
    import hashlib
    import importlib.util

    _, file = catalog.find("smollm2-135m-instruct")
    spec = importlib.util.find_spec(file.package)
    if spec is None:
        pytest.skip(f"{file.distribution} is not installed")
    path = Path(spec.submodule_search_locations[0]) / file.package_path
    assert path.stat().st_size == file.bytes
    assert hashlib.sha256(path.read_bytes()).hexdigest() == file.sha256


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("layers = 24", "layers = 0", "$.geometry.layers"),
        ("layers = 24", 'layers = "many"', "$.geometry.layers"),
        ("layers = 24", "layers = 23", "full_attention_interval"),
        ("layers = 24", "layers = 24\nlayrs = 3", "layrs"),
        ("hidden = 2048\n", "", "hidden"),
        ("linear_value_heads = 16", "linear_value_heads = 0", "linear_"),
        ('quant = "Q6_K"', 'quant = "Q8_0"', "twice"),
        ('filename = "Qwen3.5-2B-Q6_K.gguf"', 'filename = "../Q6_K.gguf"', "filename"),
        ("fc90339420b4298887aafb307a4291c55440b730133bbffe6ba9630503dcb548", "fc90", "sha256"),
        ("https://modelscope.cn/", "http://modelscope.cn/", "https"),
        ("{filename}", "{file}", "{filename}"),
        ('[source]\nrepo = "unsloth/Qwen3.5-2B-GGUF"', "[source]", "repo"),
        ("[sampling.thinking]", "[sampling.thinkin]", "thinkin"),
        ("can_think = true", "can_think = maybe", "line"),
        ("temperature = 1.0", "temperature = 9.0", "temperature"),
    ],
)
def test_a_broken_entry_names_file_and_rule(tmp_path, old, new, told):
    text = entry_text()
    assert old in text
    path = write(tmp_path, text.replace(old, new))
    with pytest.raises(DataInvalid) as caught:
        read_entry(path)
    assert "broken.toml" in caught.value.message
    assert told in caught.value.message


def test_two_entries_with_one_id_are_refused(tmp_path):
    write(tmp_path, entry_text(), "a.toml")
    write(tmp_path, entry_text(), "b.toml")
    with pytest.raises(DataInvalid, match=r"b\.toml.*already taken by a\.toml"):
        load_catalog(tmp_path)


def test_an_entry_that_is_not_text_is_refused(tmp_path):
    path = tmp_path / "bytes.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataInvalid, match=r"bytes\.toml"):
        load_catalog(tmp_path)
