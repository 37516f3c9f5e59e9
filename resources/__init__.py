"""What the graph talks to, as typed Dagster resources: the lake, the ledger, language models, the accelerator."""
