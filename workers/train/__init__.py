"""One rank's part of a training run: engine, step, loop, checkpoint files."""
