"""Selections of assets that the command line and the jobs share, in Dagster's selection syntax."""

CONSTITUTIONAL_AI = "* and not key:cost_plan and not group:policy_optimization and not group:comparison"
