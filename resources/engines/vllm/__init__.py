"""vLLM on this machine: in the run's own process on a CPU, in a process of its own on a GPU."""
