"""The state of a home: status, failures, doctor, integrity, forgetting."""
