"""Judge, reward model and policies against people and each other."""
