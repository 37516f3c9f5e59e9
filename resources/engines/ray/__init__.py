"""vLLM replicas on a Ray cluster."""
