from __future__ import annotations

import pytest

from edged.host import pressure

BOTH = "some avg10=1.50 avg60=0.20 avg300=0.01 total=99\nfull avg10=0.50 avg60=0.10 avg300=0.00 total=42\n"


def test_both_lines_are_read(tmp_path):
    (tmp_path / "proc/pressure").mkdir(parents=True)
    (tmp_path / "proc/pressure/memory").write_text(BOTH)
    found = pressure.memory_pressure(tmp_path)
    assert found == pressure.Pressure(pressure.Stall(1.5, 0.2, 99), pressure.Stall(0.5, 0.1, 42))


def test_the_pressure_of_one_cgroup_comes_from_its_own_file(tmp_path):
    (tmp_path / "memory.pressure").write_text(BOTH)
    found = pressure.memory_pressure(tmp_path / "nothing", tmp_path)
    assert found is not None
    assert found.full.total_us == 42
    assert pressure.io_pressure(cgroup_dir=tmp_path) is None


def test_psi_that_is_off_is_none(tmp_path):
    assert pressure.memory_pressure(tmp_path) is None
    assert pressure.cpu_pressure(tmp_path) is None


def test_old_kernels_have_no_full_line_for_the_cpu():
    found = pressure.parse_pressure(BOTH.splitlines()[0])
    assert found is not None
    assert found.full == pressure.Stall()


@pytest.mark.parametrize("text", ["", "some", "some avg10=x avg60=0 total=0", "full avg10=0 avg60=0 total=0"])
def test_nonsense_is_none(text):
    assert pressure.parse_pressure(text) is None
