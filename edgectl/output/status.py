"""Puts the status of a running edged into a table for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from edgectl.output.terminal import MIB, mib, size
from edged.api.status import EngineState, ServiceState

if TYPE_CHECKING:
    from edged.api.status import (
        Condition,
        HostStatus,
        MemoryParts,
        MemoryStatus,
        MqttStatus,
        PoolStatus,
        Prediction,
        Status,
    )

BAR_WIDTH = 20
COLOURS = {
    ServiceState.READY: "green",
    ServiceState.DEGRADED: "yellow",
    ServiceState.STARTING: "cyan",
    ServiceState.LOADING: "cyan",
}


def render(status: Status) -> Table:
    """The whole picture, one fact group a row; what the transport did not tell is left out."""
    afar = status.pid == 0  # seen over MQTT
    predicted = status.predicted
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row("State", _state(status, afar=afar))
    table.add_row("Model", _model(status))
    table.add_row("Speed", _speed(status))
    if predicted is not None:
        table.add_row("", _predicted_speed(predicted), style="dim")
    table.add_row("Queue", f"{status.running} running, {status.queue} waiting")
    table.add_row("Memory", _memory(status.memory))
    if predicted is not None:
        table.add_row("", _predicted_memory(status.memory, predicted), style="dim")
    if heat := _heat(status.host):
        table.add_row("Heat", heat)
    if status.mqtt is not None and not afar:
        table.add_row("Broker", _broker(status.mqtt))
    if status.mqtt is not None and status.mqtt.pool is not None:
        table.add_row("Pool", _pool(status.mqtt.pool))
    if not afar:
        table.add_row("Served", _counters(status))
        worker = "none" if status.worker_pid is None else str(status.worker_pid)
        table.add_row("Processes", f"edged {status.pid}, engine {worker}")
    for condition in status.conditions:
        table.add_row("Condition", _condition(condition))
    return table


def duration(seconds: float) -> str:
    """93784 → "1 d 2 h"; the two largest units."""
    left = int(seconds)
    parts: list[str] = []
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, length)
        if count or (unit == "s" and not parts):
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])


def bar(share: float) -> str:
    """A bar that is full at 1 and stays full above."""
    filled = round(min(max(share, 0.0), 1.0) * BAR_WIDTH)
    return "█" * filled + "░" * (BAR_WIDTH - filled)


def _state(status: Status, *, afar: bool) -> Text:
    line = Text(status.state.value, style=f"bold {COLOURS.get(status.state, 'red')}")
    if status.engine is not EngineState.READY and status.engine.value != status.state.value:
        line.append(f" (engine {status.engine.value})")
    line.append(f"  {status.node}, edged {status.version}")
    if not afar:
        line.append(f", up {duration(status.uptime_s)}")
    return line


def _model(status: Status) -> str:
    model = status.model
    name = f"{model.name} {model.quant}".strip()
    return f"{name}, {model.slots} × {model.context_tokens:,} tokens, file {size(model.file_bytes)}"


def _speed(status: Status) -> str:
    if status.decode_tps is None:
        return "nothing answered yet"
    line = f"{status.decode_tps:.1f} tok/s"
    if status.first_token_ms is not None:
        line += f", first token after {status.first_token_ms / 1000:.2f} s"
    return line if status.prefill_tps is None else f"{line}, reads {status.prefill_tps:.0f} tok/s"


def _predicted_speed(predicted: Prediction) -> str:
    how = {"measured": "from a measurement here", "estimated": "an estimate"}.get(predicted.speed, "")
    line = f"predicted {predicted.decode_tps:.1f} tok/s, first token of a 500-token prompt after "
    return line + f"{predicted.first_token_500_s:.1f} s" + (f" ({how})" if how else "")


def _predicted_memory(memory: MemoryStatus, predicted: Prediction) -> str:
    """With repacked weights the engine holds those as well, so that only a lower use can be compared."""
    used = memory.worker_anon_bytes + memory.worker_swap_bytes
    line = f"predicted {predicted.worker_mib:,} MiB with every context full"
    return line + (", besides repacked weights" if used > predicted.worker_mib * MIB else "")


def _heat(host: HostStatus) -> Text | None:
    """None on a computer that can tell neither heat nor throttling."""
    if host.temperature_c is None and not host.throttled:
        return None
    line = Text("" if host.temperature_c is None else f"{host.temperature_c:.0f} °C")
    if host.throttled:
        line.append(f" slowed down: {', '.join(host.throttled)}", style="yellow")
    return line


def _broker(mqtt: MqttStatus) -> Text:
    line = Text(f"{mqtt.broker}, topics {mqtt.topic}/…, ")
    line.append("connected" if mqtt.connected else "not connected", style="" if mqtt.connected else "yellow")
    line.append(f", {mqtt.outbox} answers not confirmed" if mqtt.outbox else "")
    return line


def _pool(pool: PoolStatus) -> Text:
    line = Text(f"{pool.name}, ")
    line.append(pool.state, style="" if pool.state == "serving" else "yellow")
    others = {0: "no other box serves", 1: "1 other box serves"}.get(pool.boxes)
    line.append(f", {others or f'{pool.boxes} other boxes serve'}")
    line.append(f", {pool.waiting} requests wait here" if pool.waiting else "")
    line.append(f"; {pool.taken} begun here, {pool.handed_on} handed on")
    line.append(f", work of {pool.taken_over} lost boxes taken over" if pool.taken_over else "")
    return line


def _memory(memory: MemoryStatus) -> Text:
    used = memory.worker_anon_bytes + memory.worker_swap_bytes
    line = Text()
    if memory.budget_bytes:
        share = used / memory.budget_bytes
        colour = (
            "red" if share >= 1 else "yellow" if share >= 0.9 else "green"
        )  # 0.9: little room for a burst
        line.append(bar(share), style=colour)
        line.append(f" {mib(used)} of {mib(memory.budget_bytes)} ({share:.0%})")
        by = ", ".join(memory.enforced_by)
        line.append(f"\nenforced by {by}" if by else "")
    else:
        line.append(f"{mib(used)}, no budget set")
    rest = []
    if memory.worker_swap_bytes:
        rest.append(f"{mib(memory.worker_swap_bytes)} of it in swap")
    if memory.worker_file_bytes:
        rest.append(f"{mib(memory.worker_file_bytes)} of the model mapped")
    if memory.supervisor_bytes:
        rest.append(f"{mib(memory.supervisor_bytes)} for the daemon")
    line.append("\n" + ", ".join(rest) if rest else "")
    if memory.parts is not None:
        line.append(f"\n{_parts(memory.parts)}", style="dim")
    return line


def _parts(parts: MemoryParts) -> str:
    """The worker's own account of its anonymous memory, without what it has none of."""
    amounts = (
        ("program", parts.base_bytes),
        ("weights", parts.weights_bytes),
        ("KV cache", parts.kv_bytes),
        ("recurrent state", parts.state_bytes),
        ("compute", parts.compute_bytes),
        ("kept prompts", parts.cache_bytes),
    )
    return "the engine's account: " + ", ".join(f"{name} {mib(size)}" for name, size in amounts if size)


def _counters(status: Status) -> str:
    count = status.counters
    line = f"{count.finished} answered, {count.failed} failed, {count.refused} refused"
    line += f"; {count.prompt_tokens:,} tokens read, {count.completion_tokens:,} written"
    return f"{line}; engine restarted {count.engine_restarts}×" if count.engine_restarts else line


def _condition(condition: Condition) -> Text:
    line = Text(condition.code, style="red" if condition.severity == "error" else "yellow")
    line.append(f": {condition.message}", style="none")
    line.append(f"\n→ {condition.hint}" if condition.hint else "")
    return line
