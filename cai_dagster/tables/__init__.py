"""One declaration a table: its columns, its key, what it is made of."""
