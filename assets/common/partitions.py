"""The partitions of the graph: one constitution version each, named by its file in constitutions/."""

import dagster as dg

from cai_dagster.constitution.versions import constitution_versions as versions_in
from cai_dagster.project import CONSTITUTIONS

constitution_versions = dg.StaticPartitionsDefinition(versions_in(CONSTITUTIONS))
