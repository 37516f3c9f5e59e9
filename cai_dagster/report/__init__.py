"""One constitution version as a page, and its summary."""
