"""Data sets for others."""
