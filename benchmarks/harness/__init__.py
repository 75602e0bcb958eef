"""What benchmarks share: timing, processes, our training step, rival nets, photographs, records and reports."""
