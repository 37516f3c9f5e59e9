"""What each checkpoint was trained on: its record, and which rows of the lake those were, as of its snapshots.

One query for all checkpoints whose tables have not been replaced since, one for each of the others. It knows the tables
that the trainers read, nothing of training.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cai_dagster.errors import MendableError
from cai_dagster.home import Home
from cai_dagster.lake_reader import LakeReader, literal
