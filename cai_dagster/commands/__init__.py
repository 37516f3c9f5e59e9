"""The commands of `cai`, one module each; `cli` puts them together."""
