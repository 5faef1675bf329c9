"""An import that is stopped leaves nothing behind, and says what it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from edgectl.models.store import Store
from tests.fixtures.gguf_files import model_bytes

PROGRAM = "import sys; from edgectl.__main__ import main; main(['models', 'import', sys.argv[1]])"
SIZE_BYTES = 1 << 30  # a hole in the source; takes seconds to copy


@pytest.mark.parametrize(
    ("stop", "status", "leaves"),
    [
        (signal.SIGINT, 128 + signal.SIGINT, 0),
        (signal.SIGTERM, 128 + signal.SIGINT, 0),
        (signal.SIGKILL, -signal.SIGKILL, 1),
    ],
)
def test_a_stopped_import_leaves_nothing_or_what_the_next_one_removes(tmp_path, stop, status, leaves):
    source = tmp_path / "big.gguf"
    source.write_bytes(model_bytes())
    os.truncate(source, SIZE_BYTES)
    store = Store(tmp_path / "models")
    command = [sys.executable, "-c", PROGRAM]
    environment = {**os.environ, "EDGED_STATE": str(tmp_path)}

    with subprocess.Popen([*command, source], env=environment, stderr=subprocess.PIPE, text=True) as process:
        deadline_s = time.monotonic() + 20
        while not any(path.stat().st_size for path in store.root.glob("partial/*.part")):
            assert process.poll() is None, "the import ended before it could be stopped"
            assert time.monotonic() < deadline_s
        process.send_signal(stop)
        _, errors = process.communicate(timeout=20)

    assert process.returncode == status
    assert "Traceback" not in errors
    assert store.list() == ()
    assert len(store.unfinished()) == leaves
    assert not list(store.root.glob("blobs/*"))

    os.truncate(source, len(model_bytes()))
    done = subprocess.run([*command, source], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(store.list()) == 1
    assert store.unfinished() == ()
