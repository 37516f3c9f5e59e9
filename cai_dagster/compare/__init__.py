"""Two constitution versions side by side."""
