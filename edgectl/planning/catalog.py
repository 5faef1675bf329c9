"""The catalogue: which models exist, their geometry, files, hashes and scores."""

from __future__ import annotations

import difflib
import tomllib
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from edgectl.errors import DataInvalid, NotFound
from edgectl.resources import data_files

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "Catalog", "Geometry", "Mark", "ModelEntry", "ModelFile", "Quality", "Sampling", "SamplingSet", "Score",
    "Source", "Vision", "load_catalog", "read_entry",
]  # fmt: skip

Mark = Literal["confirmed", "reported", "estimated"]  # how sure a figure is
Count = Annotated[int, Meta(ge=1)]
Name = Annotated[str, Meta(min_length=1, max_length=120)]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
# A plain file name: it ends up in a URL and in a path, so nothing that could leave either.
FileName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$")]
HUB_URL = "https://huggingface.co/{repo}/resolve/{revision}/{filename}"


class Geometry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The shape of the network, as its configuration gives it; counts, no units.

    ``full_attention_interval`` n means every n-th layer has a KV cache and the others are Gated DeltaNet
    layers with a recurrent state; 1 means that all have a KV cache. In a mixture of experts
    ``feed_forward`` is the width of one expert, ``shared_feed_forward`` of the one that every token uses.

    With a ``sliding_window`` every ``sliding_interval``-th layer sees the whole context and the others only
    so many tokens. ``merges`` of the tokenizer: None for about one a token, 0 for one without.
    """

    layers: Count
    hidden: Count
    feed_forward: Count
    heads: Count
    kv_heads: Count
    head_dim: Count
    vocab: Count
    tied_embeddings: bool
    full_attention_interval: Count = 1
    linear_key_heads: int = 0
    linear_value_heads: int = 0
    linear_head_dim: int = 0
    linear_conv_kernel: int = 0
    experts: int = 0
    experts_per_token: int = 0
    shared_feed_forward: int = 0
    sliding_window: int = 0
    sliding_interval: int = 0
    merges: int | None = None

    @property
    def kv_layers(self) -> int:
        """Layers with a KV cache of the whole context."""
        return self.layers // (self.sliding_interval or self.full_attention_interval)

    @property
    def sliding_layers(self) -> int:
        """Layers with a KV cache of the window."""
        return self.layers - self.kv_layers if self.sliding_interval else 0

    @property
    def linear_layers(self) -> int:
        """Layers with a recurrent state."""
        return self.layers - self.kv_layers - self.sliding_layers

    @property
    def linear_inner(self) -> int:
        return self.linear_value_heads * self.linear_head_dim

    @property
    def convolution_channels(self) -> int:
        return self.linear_inner + 2 * self.linear_key_heads * self.linear_head_dim

    @property
    def convolution_state(self) -> int:
        """Elements that one sequence's convolution keeps in one recurrent layer."""
        return max(self.linear_conv_kernel - 1, 0) * self.convolution_channels

    @property
    def matrix_state(self) -> int:
        """Elements of one sequence's state matrix in one recurrent layer."""
        return self.linear_head_dim * self.linear_inner


class Sampling(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One sampling preset; ``source`` says who recommends it."""

    temperature: Annotated[float, Meta(ge=0, le=2)]
    top_p: Annotated[float, Meta(gt=0, le=1)]
    top_k: Annotated[int, Meta(ge=0)]
    min_p: Annotated[float, Meta(ge=0, le=1)]
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)]
    repeat_penalty: Annotated[float, Meta(gt=0, le=2)]
    source: str = ""


class SamplingSet(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    non_thinking: Sampling
    thinking: Sampling | None = None


class Quality(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``index``, 0 to 100, orders the models: the mean of MMLU-Pro and IFEval in thinking mode."""

    index: Annotated[float, Meta(ge=0, le=100)]
    mark: Mark


class Score(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One published benchmark score, in points of 100; absent modes were not published."""

    benchmark: Name
    source: Name
    thinking: float | None = None
    non_thinking: float | None = None


class Source(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the files of one model lie; mirrors are URL templates with {repo} and {filename}."""

    repo: Name
    revision: Name
    mirrors: tuple[str, ...] = ()


class Vision(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The image projector: the same name in every repository, told apart by its hash."""

    filename: FileName
    bytes: Count
    sha256: Sha256 | None = None


class ModelFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One GGUF of one model. ``kld`` is the mean KL divergence from BF16, in nats a token.

    Empty ``repo``, ``revision`` and ``mirrors`` take the model's on loading.
    """

    quant: Annotated[str, Meta(pattern=r"^[A-Z0-9_-]{2,20}$")]
    filename: FileName
    bytes: Count
    kld: Annotated[float, Meta(ge=0, le=1)]
    kld_mark: Mark
    sha256: Sha256 | None = None
    repo: str = ""
    revision: str = ""
    mirrors: tuple[str, ...] = ()
    package: str | None = None  # import name of a Python package that carries the file
    distribution: str | None = None  # what to install to have that package
    package_path: FileName | None = None  # where in the package's folder the file lies

    @property
    def pullable(self) -> bool:
        """Whether it may be fetched and loaded: only what has a pinned hash."""
        return self.sha256 is not None

    @property
    def urls(self) -> tuple[str, ...]:
        """Where to fetch it from, in order: the Hub, then the mirrors."""
        if not self.repo:
            return ()
        return tuple(
            template.format(repo=self.repo, revision=self.revision, filename=self.filename)
            for template in (HUB_URL, *self.mirrors)
        )


class ModelEntry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model; ``files`` from the smallest to the largest."""

    id: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9.-]{0,63}$")]
    name: Name
    family: Name
    arch: Name  # general.architecture of the GGUF
    licence: Name
    text_parameters: Count
    context_max_tokens: Count
    can_think: bool
    default_thinking: bool
    quality: Quality
    geometry: Geometry
    sampling: SamplingSet
    files: Annotated[tuple[ModelFile, ...], Meta(min_length=1)]
    active_parameters: int | None = None  # of a mixture of experts: those one token uses
    demo: bool = False  # chosen only by name
    source: Source | None = None
    vision: Vision | None = None
    scores: tuple[Score, ...] = ()

    @property
    def parameters_per_token(self) -> int:
        return self.active_parameters or self.text_parameters

    def file(self, quant: str) -> ModelFile | None:
        return next((file for file in self.files if file.quant.lower() == quant.lower()), None)

    def score(self, benchmark: str) -> Score | None:
        return next((score for score in self.scores if score.benchmark == benchmark), None)


class Catalog(Struct, frozen=True):
    """All models, the smallest first."""

    models: tuple[ModelEntry, ...]

    def model(self, name: str) -> ModelEntry:
        """The model with id ``name``, in any case. Raises NotFound with the nearest name."""
        known = {entry.id: entry for entry in self.models}
        found = known.get(name.strip().lower())
        if found is None:
            raise NotFound(f"the catalogue has no model {name!r}", hint=_suggest(name, tuple(known)))
        return found

    def find(self, spec: str) -> tuple[ModelEntry, ModelFile]:
        """The model and file of ``"model"`` or ``"model:quant"``, in any case.

        Without a quant: Q4_K_M, else the first pinned file. Raises NotFound with the nearest name.
        """
        name, colon, quant = spec.partition(":")
        entry = self.model(name)
        if not colon:
            return entry, usual_file(entry)
        return entry, find_file(entry, quant)


def find_file(entry: ModelEntry, quant: str) -> ModelFile:
    """The file of ``entry`` with that quantization. Raises NotFound with the nearest name."""
    file = entry.file(quant.strip())
    if file is None:
        known = tuple(file.quant for file in entry.files)
        raise NotFound(f"{entry.id} has no file {quant!r}", hint=_suggest(quant, known))
    return file


def usual_file(entry: ModelEntry) -> ModelFile:
    """Q4_K_M where it can be fetched, else the first file that can, else the first."""
    usual = entry.file("Q4_K_M")
    if usual is not None and usual.pullable:
        return usual
    return next((file for file in entry.files if file.pullable), entry.files[0])


def load_catalog(folder: Path | None = None) -> Catalog:
    """Reads every ``*.toml`` of ``folder`` (default: the entries that come with edged).

    Raises DataInvalid naming file, key and rule when one is broken.
    """
    paths = data_files("profiles/models") if folder is None else sorted(folder.glob("*.toml"))
    entries = [read_entry(path) for path in paths]
    seen: dict[str, Path] = {}
    for entry, path in zip(entries, paths, strict=True):
        if entry.id in seen:
            raise _broken(path, f"`id` {entry.id!r} is already taken by {seen[entry.id].name}")
        seen[entry.id] = path
    return Catalog(tuple(sorted(entries, key=lambda entry: entry.text_parameters)))


def read_entry(path: Path) -> ModelEntry:
    """One entry, checked. Raises DataInvalid naming file, key and rule."""
    try:
        entry = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), ModelEntry)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise _broken(path, str(error)) from error
    for problem in _problems(entry):
        raise _broken(path, problem)
    return msgspec.structs.replace(
        entry,
        files=tuple(sorted((_with_source(file, entry) for file in entry.files), key=lambda file: file.bytes)),
    )


def _with_source(file: ModelFile, entry: ModelEntry) -> ModelFile:
    if file.repo or entry.source is None:
        return file
    source = entry.source
    return msgspec.structs.replace(
        file,
        repo=source.repo,
        revision=file.revision or source.revision,
        mirrors=file.mirrors or source.mirrors,
    )


def _problems(entry: ModelEntry) -> list[str]:
    """Rules between keys, which the schema cannot say."""
    problems = []
    geometry = entry.geometry
    if geometry.layers % geometry.full_attention_interval:
        problems.append("`geometry.layers` must be a multiple of `geometry.full_attention_interval`")
    linear = (geometry.linear_key_heads, geometry.linear_value_heads, geometry.linear_head_dim)
    if geometry.linear_layers and not (min(linear) > 0 and geometry.linear_conv_kernel > 1):
        problems.append(
            "`geometry.linear_*` must be given when `geometry.full_attention_interval` is above 1"
        )
    if entry.default_thinking and not entry.can_think:
        problems.append("`default_thinking` needs `can_think`")
    if entry.can_think and entry.sampling.thinking is None:
        problems.append("`sampling.thinking` must be given when `can_think` is true")
    if entry.active_parameters is not None and not 0 < entry.active_parameters <= entry.text_parameters:
        problems.append("`active_parameters` must lie between 1 and `text_parameters`")
    quants = [file.quant for file in entry.files]
    problems += [f"`files` has {quant} twice" for quant in sorted(set(quants)) if quants.count(quant) > 1]
    for file in entry.files:
        if not (file.repo or file.package or entry.source):
            problems.append(
                f"`files` {file.quant} has neither `repo` nor `package`, and there is no `source`"
            )
        if (file.package is None) != (file.package_path is None):
            problems.append(f"`files` {file.quant} needs both `package` and `package_path`, or neither")
        problems += [f"mirror {url!r} is not https" for url in file.mirrors if not url.startswith("https://")]
    if entry.source is not None:
        problems += [
            f"`source.mirrors` entry {template!r} must be https with {{repo}} and {{filename}}"
            for template in entry.source.mirrors
            if not _is_template(template)
        ]
    return problems


def _is_template(text: str) -> bool:
    """https, and every brace belongs to one of the three names that are filled in."""
    rest = text
    for name in ("{repo}", "{revision}", "{filename}"):
        rest = rest.replace(name, "")
    return (
        text.startswith("https://")
        and "{repo}" in text
        and "{filename}" in text
        and not {"{", "}"} & set(rest)
    )


def _broken(path: Path, problem: str) -> DataInvalid:
    return DataInvalid(
        f"the catalogue entry {path.name} is broken: {problem}", hint=f"correct {path}, or reinstall edged"
    )


def _suggest(name: str, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(name.lower(), [item.lower() for item in known], n=1, cutoff=0.5)
    by_lower = {item.lower(): item for item in known}
    listed = "known: " + ", ".join(known)
    return f"did you mean {by_lower[close[0]]}? ({listed})" if close else listed
