"""A machine with GPUs on one page: correctness, speed, memory and traffic. `make gpu` writes it."""
