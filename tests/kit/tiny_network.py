"""Networks for replicas: one of every architecture that is small enough for a test, and a large plan."""

from __future__ import annotations

import msgspec

from edgectl.models.replica_plan import ReplicaPlan, plan_replica
from edgectl.planning.catalog import Geometry

HYBRID = {
    "full_attention_interval": 4,
    "linear_key_heads": 2,
    "linear_value_heads": 4,
    "linear_head_dim": 128,
    "linear_conv_kernel": 4,
}
EXPERTS = {"experts": 8, "experts_per_token": 2, "shared_feed_forward": 256}


def tiny_network(arch: str, *, layers: int = 4, vocab: int = 512) -> Geometry:
    """256 wide, with what ``arch`` needs beyond that."""
    extra = {**(HYBRID if arch.startswith("qwen35") else {}), **(EXPERTS if arch.endswith("moe") else {})}
    return Geometry(
        layers=layers,
        hidden=256,
        feed_forward=512,
        heads=4,
        kv_heads=2,
        head_dim=256 if arch.startswith("qwen35") else 64,
        vocab=vocab,
        tied_embeddings=arch != "qwen35moe",
        **extra,
    )


def large_plan() -> ReplicaPlan:
    """Half a gigabyte of weights behind a header of some kilobytes."""
    network = msgspec.structs.replace(tiny_network("llama"), feed_forward=1 << 18)
    return plan_replica("llama", network, "Q8_0", context_tokens=64)
