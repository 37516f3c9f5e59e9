"""What each table is: its columns, its key, what it is made of."""
