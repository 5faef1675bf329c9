from __future__ import annotations

import os

from edged.host.cpu_load import TICKS_PER_S, CpuLoad, LoadMeter, cpu_times, process_cpu_s

T = TICKS_PER_S


def write(root, place, text):
    file = root / place
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def stat(root, **cpus):
    """Each CPU: seconds of user, nice, system, idle, iowait, irq, softirq, steal, guest."""
    lines = [f"{name} {' '.join(str(int(seconds * T)) for seconds in times)}" for name, times in cpus.items()]
    write(root, "proc/stat", "cpu  1 2 3 4\n" + "\n".join(lines) + "\nintr 5 6\nctxt 7\n")


def process(root, pid, user_s, system_s):
    words = ["S", *["0"] * 10, str(int(user_s * T)), str(int(system_s * T)), *["0"] * 30]
    write(root, f"proc/{pid}/stat", f"{pid} (a name (with) brackets) {' '.join(words)}\n")


def test_busy_is_all_but_idle_and_waiting_and_guests_count_once(tmp_path):
    stat(tmp_path, cpu0=(1, 2, 3, 40, 50, 6, 7, 8, 1), cpu1=(100, 0, 0, 0, 0, 0, 0, 0, 0))
    times = cpu_times((0,), tmp_path)
    assert (times.busy_s, times.idle_s) == (27, 90)
    assert cpu_times((0, 1, 7), tmp_path).busy_s == 127


def test_kernels_that_count_less_are_read_as_far_as_they_go(tmp_path):
    stat(tmp_path, cpu0=(1, 2, 3, 4))
    assert cpu_times((0,), tmp_path).busy_s == 6


def test_a_process_is_charged_for_what_it_computed(tmp_path):
    process(tmp_path, 7, 2.5, 0.5)
    assert process_cpu_s(7, tmp_path) == 3.0
    assert process_cpu_s(8, tmp_path) is None
    assert process_cpu_s(os.getpid()) > 0


def test_the_background_is_what_we_did_not_use_ourselves(tmp_path):
    meter = LoadMeter((0, 1), tmp_path)
    stat(tmp_path, cpu0=(10, 0, 0, 10), cpu1=(10, 0, 0, 10))
    process(tmp_path, 7, 5, 0)
    assert meter.read(100.0, (7,)) is None
    stat(tmp_path, cpu0=(18, 0, 0, 12), cpu1=(20, 0, 0, 10))
    process(tmp_path, 7, 11, 1)
    assert meter.read(110.0, (7,)) == CpuLoad(background=1.1, idle=0.2)


def test_a_worker_that_is_new_or_gone_makes_a_reading_void(tmp_path):
    meter = LoadMeter((0,), tmp_path)
    stat(tmp_path, cpu0=(10, 0, 0, 10))
    process(tmp_path, 7, 5, 0)
    process(tmp_path, 8, 5, 0)
    meter.read(1.0, (7,))
    assert meter.read(2.0, (8,)) is None
    assert meter.read(3.0, (8,)) == CpuLoad(background=0.0, idle=0.0)
    assert meter.read(4.0, (9,)) is None
    assert meter.read(5.0, (9,)) is None


def test_two_readings_of_this_computer_say_how_busy_it_is():
    meter = LoadMeter(tuple(os.sched_getaffinity(0)))
    meter.read(0.0, ())
    load = meter.read(1.0, ())
    assert load.background >= 0
    assert load.idle >= 0
