"""The data-quality checks: name, bound, measurement."""
