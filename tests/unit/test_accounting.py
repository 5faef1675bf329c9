from __future__ import annotations

from edged.api.status import MemoryParts
from edged.worker.accounting import EngineBuffers

MIB = 1 << 20
# What llama.cpp says of a hybrid model, with weights that are mapped, copied and repacked.
LOG = """\
load: token to piece cache size = 1.6482 MB
load_tensors:   CPU_Mapped model buffer size =   497.39 MiB
load_tensors:   CPU_REPACK model buffer size =   100.00 MiB
load_tensors:          CPU model buffer size =     2.00 MiB
llama_context:        CPU  output buffer size =     1.50 MiB
llama_kv_cache:        CPU KV buffer size =    12.00 MiB
llama_kv_cache: size =   12.00 MiB (   512 cells,   6 layers,  2/2 seqs), K (f16):    6.00 MiB
llama_kv_cache:        CPU KV buffer size =     3.00 MiB
llama_memory_recurrent:        CPU RS buffer size =    38.50 MiB
sched_reserve:        CPU compute buffer size =   600.00 KiB
sched_reserve:        CPU compute buffer size =     8.50 MiB
"""


def account(log, **known):
    buffers = EngineBuffers()
    for line in log.splitlines():
        buffers.heard(line)
    return buffers.parts(**known)


def test_every_buffer_that_is_told_is_on_the_account():
    parts = account(LOG)
    assert parts == MemoryParts(
        mapped_bytes=round(497.39 * MIB),
        weights_bytes=102 * MIB,
        kv_bytes=15 * MIB,
        state_bytes=round(38.5 * MIB),
        compute_bytes=10 * MIB,
    )
    assert parts.anon_bytes == round((102 + 15 + 38.5 + 10) * MIB)


def test_logits_are_counted_for_all_rows_that_a_step_may_give():
    assert account(LOG, logits_bytes=2 * MIB).compute_bytes == round(10.5 * MIB)


def test_an_engine_that_tells_nothing_has_an_empty_account():
    assert account("llama_model_loader: loaded meta data\nCPU KV buffer size = a lot\n") == MemoryParts()
