"""Datasets for others."""
