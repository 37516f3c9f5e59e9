"""Commands of `cai`, one module each; `cai_dagster.cli` puts them together."""
