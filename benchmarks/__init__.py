"""What `make bench` measures: ratios in one run on one machine, never seconds against a clock of another day.

Each module measures one thing and has a function `measure`, which runs in a process of its own. `__main__` runs them,
writes results.json and the table in docs/benchmarks.md. No number there is typed by hand.
"""
