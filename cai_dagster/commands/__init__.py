"""Commands of `cai`, one module each; `cai_dagster.commands.cli` puts them together."""
