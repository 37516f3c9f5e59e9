"""vLLM behind an OpenAI-compatible server."""
