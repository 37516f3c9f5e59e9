"""Property tests draw the same examples in every run, however slow the machine is; `make unit` draws fewer."""

from hypothesis import settings

settings.register_profile("all", derandomize=True, deadline=None)
settings.register_profile("quick", derandomize=True, deadline=None, max_examples=20)
settings.load_profile("all")
