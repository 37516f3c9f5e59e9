"""The code location with a scripted model, for `dagster asset materialize -m tests.scripted_location`.

SCRIPTED_DELAY is the seconds before each answer.
"""

import os

from tests.fault_workloads import mark_the_graph, script_the_trainers
from tests.scripted_graph import definitions

script_the_trainers()
mark_the_graph()
defs = definitions(delay=float(os.environ.get("SCRIPTED_DELAY", "0")), voice="steady", log_calls=True)
