"""The wire between supervisor and worker: frames and messages, no I/O."""
