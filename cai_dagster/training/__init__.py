"""Checkpoints, trainers, losses, scoring."""
