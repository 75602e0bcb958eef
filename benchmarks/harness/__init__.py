"""What benchmarks share: timing, worker processes, our training step, rival nets, photographs and reports."""
