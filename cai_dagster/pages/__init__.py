"""HTML and pictures that every page uses."""
