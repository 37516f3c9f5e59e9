"""What users bring: files, prompts, pairs, evaluation sets."""
