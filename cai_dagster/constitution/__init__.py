"""Constitutions: files, principles and their draws; reading what others wrote."""
