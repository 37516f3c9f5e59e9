"""The commands of `cai`, one module each; `cli` registers them."""
