"""The engines behind a language model resource."""
