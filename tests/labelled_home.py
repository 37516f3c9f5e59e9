"""A home with two versions up to their labels, made by the graph with a scripted model; no model was trained."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cai_dagster.home import Home
from tests.scripted_graph import WITHOUT_TRAINING, materialize, pretend_trained, write_prompts

LABELS = ["response_pairs", "judgements", "preference_pairs"]
OF_A_SECOND_VERSION = ["constitution", "revision_rounds", "sft_dataset"]
QUESTIONS = [f"question {number}" for number in range(120)]


@dataclass(frozen=True)
class LabelledHome:
    """The home, and the launchpad config that made it."""

    home: Home
    config: dict[str, Any]


def label_two_versions(folder: Path, texts: Sequence[str] = QUESTIONS) -> dict[str, Any]:
    """Fill CAI_HOME with v1 and v2, whose pairs are first and last responses; the config that did it."""
    config: dict[str, Any] = {"prompts": write_prompts(folder / "p.jsonl", texts), "sft_dataset": {"min_rows": 1}}
    config["response_pairs"] = {"source": "revisions"}
    for version, first in (("v1", WITHOUT_TRAINING), ("v2", OF_A_SECOND_VERSION)):
        materialize(first, config, version=version)
        pretend_trained(Home.from_environment(), folder / version, version)
        materialize(LABELS, config, version=version)
    return config


def make(folder: Path) -> LabelledHome:
    """The home in a folder, for tests to copy."""
    home = Home((folder / "home").resolve())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAI_HOME", str(home.root))
        return LabelledHome(home, label_two_versions(folder))
