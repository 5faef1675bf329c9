"""Small models with seeded random weights: nonsense, but the nonsense depends on every token before it.

What a weightless replica cannot show they do: memory (KV cache or recurrent state) that holds something, and
logits that tell one prompt from another. A few MiB each, written in a tenth of a second.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from edgectl.models.gguf import DEFAULT_ALIGNMENT_BYTES
from edgectl.models.replica_plan import plan_replica
from edgectl.models.synthetic_tokenizer import SPECIALS
from tests.kit.tiny_network import tiny_network

if TYPE_CHECKING:
    from pathlib import Path

    from edgectl.models.gguf_metadata import Value
    from edgectl.models.replica_plan import ReplicaPlan
    from edgectl.models.tensor_plan import TensorSpec

POOLING = {"none": 0, "mean": 1, "cls": 2, "last": 3, "rank": 4}  # `enum llama_pooling_type` of llama.h

# Standard deviation of the logits. Their two largest are then about one apart, hundreds of times what the
# order of additions in a batch moves them.
LOGIT_SCALE = 4.0
# A token says more about the next one than a layer does, as in real models; more of a layer's output gives
# texts that soon repeat themselves.
LAYER_SCALE = 0.7
Q8_BLOCK = 32
# Of gemma3: five layers look back so many tokens, the sixth at all of them.
WINDOW_TOKENS, WINDOW_LAYERS = 64, 6


# As Qwen3.5's goes on: a thought, if only an empty one, before the answer, and none in what lies back.
THINKING_TEMPLATE = (
    "{% set last = namespace(question=0) %}"
    "{% for m in messages if m.role == 'user' %}{% set last.question = messages.index(m) %}{% endfor %}"
    "{% for m in messages %}"
    "<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.index0 > last.question %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content | trim }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n"
    "{% if not enable_thinking %}\n</think>\n\n{% endif %}{% endif %}"
)


def random_model(
    folder: Path, arch: str = "qwen35", *, quant: str = "Q8_0", seed: int = 1, template: str = ""
) -> Path:
    """A chat model of ``arch``.

    qwen35 is hybrid: three recurrent layers, one with a KV cache. gemma3 has windows, of few tokens.

    512 tokens, no end of turn ever wins: greedy answers are as long as they may be and do not settle into a
    loop. The same ``seed`` gives the same file. ``template`` replaces the plain chat template.
    """
    keys: dict[str, Value] = {"tokenizer.chat_template": template} if template else {}
    if arch == "gemma3":
        keys["gemma3.attention.sliding_window"] = WINDOW_TOKENS
    name = f"random-{arch}-{quant}-{seed}{'-template' if template else ''}.gguf"
    return _write(folder / name, arch, quant, seed, keys)


def random_embedder(folder: Path, pooling: str = "last", *, causal: bool = True, seed: int = 1) -> Path:
    """An embedding model of 256 numbers a text, with ``pooling`` in its metadata ("" leaves it out)."""
    keys: dict[str, Value] = {"llama.attention.causal": causal}
    if pooling:
        keys["llama.pooling_type"] = POOLING[pooling]
    name = f"random-embedder-{pooling or 'unsaid'}-{'causal' if causal else 'both-ways'}-{seed}.gguf"
    return _write(folder / name, "llama", "Q8_0", seed, keys)


def _write(path: Path, arch: str, quant: str, seed: int, keys: dict[str, Value]) -> Path:
    network = tiny_network(arch, layers=WINDOW_LAYERS if arch == "gemma3" else 4)
    network = msgspec.structs.replace(network, tied_embeddings=False)
    plan = plan_replica(arch, network, quant, context_tokens=4096)
    metadata = {**plan.metadata, "general.name": f"random {arch}", **keys}
    plan = msgspec.structs.replace(plan, metadata=metadata)
    path.write_bytes(plan.header() + weights(plan, seed))
    return path


def weights(plan: ReplicaPlan, seed: int) -> bytes:
    """Random values for the tensors of ``plan``, in its order, as they lie in a file."""
    dice = np.random.default_rng(seed)
    parts = []
    for spec in plan.tensors:
        data = _encoded(_values(spec, dice), spec.ggml_type)
        parts += [data, bytes(-len(data) % DEFAULT_ALIGNMENT_BYTES)]
    return b"".join(parts)


def _values(spec: TensorSpec, dice: np.random.Generator) -> np.ndarray:
    """Rows × columns of float32, such that activations keep their size from layer to layer."""
    shape = tuple(reversed(spec.shape))
    name = spec.name
    noise = dice.standard_normal(shape, dtype=np.float32)
    fan_in = spec.shape[0]
    if name.endswith(".bias"):
        return (0.5 if "ssm" in name else 0.1) * noise
    if name.endswith("norm.weight"):
        return 1 + 0.1 * noise
    if name.endswith("ssm_a"):  # minus the rate at which a head forgets: from some ten to some hundred tokens
        return -np.exp(np.linspace(math.log(0.01), math.log(0.1), spec.shape[0], dtype=np.float32))
    if name.endswith("ssm_conv1d.weight"):
        return noise / 2
    if name == "token_embd.weight":
        return noise
    if name == "output.weight":
        noise[-len(SPECIALS) :] = 0  # the last tokens; a logit of 0 never wins
        return noise * (LOGIT_SCALE / math.sqrt(fan_in))
    if "down" in name or "out" in name:
        return noise * (LAYER_SCALE / math.sqrt(fan_in))
    return noise / math.sqrt(fan_in)


def _encoded(values: np.ndarray, kind: str) -> bytes:
    match kind:
        case "F32":
            return values.astype("<f4").tobytes()
        case "F16":
            return values.astype("<f2").tobytes()
        case "Q8_0":  # blocks of 32: the scale as float16, then 32 signed bytes
            blocks = values.reshape(-1, Q8_BLOCK)
            scales = (np.abs(blocks).max(axis=1, keepdims=True) / 127).astype("<f2")
            steps = scales.astype(np.float32)
            numbers = np.round(np.divide(blocks, steps, out=np.zeros_like(blocks), where=steps > 0))
            packed = np.zeros(len(blocks), dtype=[("scale", "<f2"), ("numbers", "i1", Q8_BLOCK)])
            packed["scale"], packed["numbers"] = scales[:, 0], np.clip(numbers, -127, 127)
            return packed.tobytes()
    raise ValueError(f"no random weights of type {kind}")
