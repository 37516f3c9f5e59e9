"""Selections of assets that the command line and the jobs share, in Dagster's selection syntax."""

_ON_DEMAND = ("key:cost_plan", "group:policy_optimization", "group:comparison", "group:monitoring")

CONSTITUTIONAL_AI = " and ".join(["*", *(f"not {assets}" for assets in _ON_DEMAND)])
