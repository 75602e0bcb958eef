"""Speed and memory in one process: the training step, a run, the input path, inference and how they grow."""
