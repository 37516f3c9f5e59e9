"""Property tests draw the same examples in every run, however slow the machine is."""

from hypothesis import settings

settings.register_profile("tests", derandomize=True, deadline=None)
settings.load_profile("tests")
