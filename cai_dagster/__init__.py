"""The domain of Constitutional AI, in plain Python: it knows no Dagster, no `assets` and no `resources`.

The one exception is `definitions.py`, where the graph is put together.
"""
