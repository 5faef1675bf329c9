"""Which weights the engine copies into an order its kernels like better, when it may.

Source: ``ggml_repack_get_optimal_repack_type`` in llama.cpp's ``ggml-cpu/repack.cpp`` (October 2026). On
x86-64 checked by measuring: 160.9 MiB more anonymous memory for Qwen3.5 0.8B Q4_K_M, whose Q4_K matrices
are that large, and 12.7 for gemma-3-270m.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from edgectl.planning.work import ShapedTensor

__all__ = ["repack_types", "repacked_bytes"]

# Type → the number that a matrix's rows must be a multiple of.
_AVX2: Final[Mapping[str, int]] = {"Q4_0": 8, "Q4_K": 8, "IQ4_NL": 8, "MXFP4": 8}
_AVX512: Final[Mapping[str, int]] = {"Q2_K": 8}
# amx/common.h; in virtual machines the kernels may be advertised and die, which edged's self-test finds out.
# An AMX copy is a little larger than the original (amx/mmq.cpp, get_row_size); not measured.
_AMX: Final[Mapping[str, int]] = dict.fromkeys(("Q4_0", "Q4_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS"), 32)
_ARM_DOT: Final[Mapping[str, int]] = {
    "Q4_0": 4, "Q4_K": 8, "Q5_K": 8, "Q6_K": 8, "IQ4_NL": 4, "MXFP4": 4, "Q8_0": 4, "Q1_0": 4,
}  # fmt: skip


def repack_types(cpu_features: Collection[str]) -> Mapping[str, int]:
    """Tensor types that are repacked on a CPU with these flags of /proc/cpuinfo, and their row multiples."""
    if "asimddp" in cpu_features:
        return _ARM_DOT
    if "avx2" not in cpu_features:
        return {}
    wide = _AVX512 if "avx512f" in cpu_features else {}
    amx = _AMX if "amx_int8" in cpu_features else {}
    return {**_AVX2, **wide, **amx}


def repacked_bytes(tensors: Iterable[ShapedTensor], cpu_features: Collection[str]) -> int:
    """Anonymous memory of the second copy; the mapped file stays resident too.

    Rows of the embedding are looked up by token, which repacked weights cannot do, so it is never repacked;
    where it is the output head as well, the engine repacks a copy for that.
    """
    kinds = repack_types(cpu_features)
    found = tuple(tensors)
    tied = all(tensor.name != "output.weight" for tensor in found)
    return sum(
        tensor.size_bytes
        for tensor in found
        if tensor.ggml_type in kinds
        and len(tensor.shape) > 1
        and tensor.shape[1] % kinds[tensor.ggml_type] == 0
        and (tied or tensor.name != "token_embd.weight")
    )
