"""The graph: one module a stage, in the order of the paper. Bodies say what goes in, what comes out, which recipe.

The recipes are in `cai_dagster`; how rows run and are written is in `assets.common.stage`, once.
"""
