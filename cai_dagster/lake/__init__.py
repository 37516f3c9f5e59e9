"""The tables in DuckLake: transactions, snapshots, staging, history, forgotten prompts."""
