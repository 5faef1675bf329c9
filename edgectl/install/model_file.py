"""A catalogue entry for a model file that the catalogue does not know: its shape is in its own header."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgectl.errors import NotFound, Usage
from edgectl.install.code import FLEETING, HIDDEN, under
from edgectl.install.desired import FAKE_SUFFIX
from edgectl.models.gguf import Array, Header, read_model
from edgectl.models.names import as_filename, as_model_id
from edgectl.models.naming import quant_label
from edgectl.planning.catalog import Geometry, ModelEntry, ModelFile, Quality, Sampling, SamplingSet
from edgectl.planning.header_memory import geometry_of_header
from edged.api.errors import ModelUnusable

if TYPE_CHECKING:
    from pathlib import Path

NO_HASH = "0" * 64  # the plan wants a pinned file; this one is here already and is not fetched
PLAIN = Sampling(temperature=0.7, top_p=0.9, top_k=40, min_p=0.05, presence_penalty=0.0, repeat_penalty=1.0)
TOY = Geometry(
    layers=1, hidden=64, feed_forward=64, heads=1, kv_heads=1, head_dim=64, vocab=256, tied_embeddings=True
)
UNKNOWN_CONTEXT_TOKENS = 4096


def require_usable(path: Path, *, user: bool) -> None:
    """Raises NotFound or Usage when the service could not read the model file at ``path``."""
    if not path.is_file():
        raise NotFound(f"there is no file {path}", hint="check the path; is the USB stick mounted?")
    if under(path, FLEETING):
        raise Usage(
            f"{path} does not outlive a reboot", hint="`edgectl models import` copies it to a lasting place"
        )
    if user:
        return
    gate = (
        path if under(path, HIDDEN) else None
    )  # a home may stay closed: the service is shown the file alone
    steps = [] if gate else [step for step in path.parents if not step.stat().st_mode & 0o001]
    if steps or not path.stat().st_mode & 0o004:
        raise Usage(
            f"{path} cannot be read by other users, such as the service's",
            hint=f"sudo chmod a+r {path}, or `sudo edgectl models import {path}`",
        )


def entry_of(path: Path, filename: str = "") -> ModelEntry:
    """The entry for the file at ``path``, which was called ``filename`` once.

    Raises IntegrityError or ModelUnusable as `read_model` does.
    """
    if (filename or path.name).endswith(FAKE_SUFFIX):
        return _entry("fake", "fake", path, TOY, context_tokens=1 << 20, parameters=1, quant="FAKE")
    header = read_model(path)
    return _entry(
        as_model_id(header.name or path.stem),
        header.architecture,
        path,
        _geometry_of(header),
        context_tokens=header.context_length or UNKNOWN_CONTEXT_TOKENS,
        parameters=header.parameter_count,
        quant=quant_label(header, path.name),
    )


def _entry(
    model: str, arch: str, path: Path, geometry: Geometry, *, context_tokens: int, parameters: int, quant: str
) -> ModelEntry:
    file = ModelFile(
        quant=quant,
        filename=as_filename(path.name),
        bytes=path.stat().st_size,
        kld=0.0,
        kld_mark="estimated",
        sha256=NO_HASH,
    )
    return ModelEntry(
        id=model,
        name=model,
        family=arch,
        arch=arch,
        licence="unknown",
        text_parameters=parameters,
        context_max_tokens=context_tokens,
        can_think=False,
        default_thinking=False,
        quality=Quality(index=0.0, mark="estimated"),
        geometry=geometry,
        sampling=SamplingSet(non_thinking=PLAIN),
        files=(file,),
    )


def _geometry_of(header: Header) -> Geometry:
    """Experts, windows and extra layers included where the architecture is known, else the rough shape."""
    try:
        return geometry_of_header(header)
    except ModelUnusable:
        return _rough_geometry(header)


def _rough_geometry(header: Header) -> Geometry:
    """The shape that llama.cpp reads from the same keys (``llama-arch.cpp``)."""

    def number(name: str) -> int:
        return header.of_architecture(name) or 0

    tokens = header.metadata.get("tokenizer.ggml.tokens")
    vocab = number("vocab_size") or (tokens.length if isinstance(tokens, Array) else 0)
    layers, hidden, heads = number("block_count"), number("embedding_length"), number("attention.head_count")
    if not (layers and hidden and heads and vocab):
        raise ModelUnusable(
            f"the header of {header.name or 'the file'} does not give the shape of the model",
            hint="take a model of the catalogue: `edgectl plan`",
        )
    return Geometry(
        layers=layers,
        hidden=hidden,
        feed_forward=number("feed_forward_length") or 4 * hidden,
        heads=heads,
        kv_heads=number("attention.head_count_kv") or heads,
        head_dim=number("attention.key_length") or hidden // heads,
        vocab=vocab,
        tied_embeddings=not any(tensor.name == "output.weight" for tensor in header.tensors),
        full_attention_interval=number("full_attention_interval") or 1,
        linear_key_heads=number("ssm.group_count"),
        linear_value_heads=number("ssm.time_step_rank"),
        linear_head_dim=number("ssm.state_size"),
        linear_conv_kernel=number("ssm.conv_kernel"),
    )
