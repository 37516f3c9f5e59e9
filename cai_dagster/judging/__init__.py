"""Judging: questions to the feedback model, the evidence that comes of them, and the labels that follow from it."""
