"""Model calls: requests, the ledger, the model behind the ledger, rows in flight."""
