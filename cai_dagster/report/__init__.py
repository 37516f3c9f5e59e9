"""One constitution version as a page."""
