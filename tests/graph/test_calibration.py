"""The feedback model against humans: every figure is recomputed from the raw tables by other code than the module's."""

import itertools
import json
import math
from collections import defaultdict
from pathlib import Path
from statistics import mean, pvariance, variance
from typing import Any

import dagster as dg
import numpy as np
import polars as pl
import pytest

from cai_dagster.evaluation.calibration import calibrate, reliability
from cai_dagster.home import Home
from cai_dagster.inputs.pairs import in_hash_order
from cai_dagster.plan.cost import plan
from cai_dagster.settings import active_settings
from cai_dagster.tables.registry import TABLES
from resources.lake import open_lake
from tests.scripted_graph import (
    WITHOUT_TRAINING,
    definitions,
    materialize,
    metadata,
    pretend_trained,
    scripted_models,
)

CALIBRATION = ["constitution", "human_preferences", "calibration_judgements", "judge_calibration"]
VOTES = [(None, None), (3, 1), (2, 2), (0, 4), (1, 0), (5, 0)]


def pairs_of(rng: np.random.Generator, number: int) -> list[dict[str, Any]]:
    """Pairs with texts of several lengths, categories, and votes for some."""
    rows: list[dict[str, Any]] = []
    for one in range(number):
        chosen, rejected = (f"answer {rng.integers(1000)} " + "x" * int(rng.integers(4)) for _ in range(2))
        votes = VOTES[one % len(VOTES)]
        rows.append(
            {
                "prompt": f"question {one}",
                "chosen": chosen + "!",
                "rejected": rejected,
                "category": ["chat", "code", None][one % 3],
                "votes_chosen": votes[0],
                "votes_rejected": votes[1],
            }
        )
    return rows


def tables_of(number: int, principles: int, orders: tuple[str, ...] = ("01", "10")) -> tuple[pl.DataFrame, ...]:
    """Raw judgements by chance, the human pairs, and a constitution of four principles."""
    rng = np.random.default_rng(7)
    humans, judgements = [], []
    for one, row in enumerate(pairs_of(rng, number)):
        sides = {name: [{"role": "assistant", "content": row[name]}] for name in ("chosen", "rejected")}
        humans.append({**row, **sides, "prompt": [], "pair_id": f"{one:08x}", "prompt_id": "ab", "split": "sft"})
        for principle, order in itertools.product(range(principles), orders):
            mass = rng.uniform(0.5, 1)
            p_a = 0.5 if (one, principle) == (3, 0) else rng.uniform(0.02, 0.98)
            judgements.append(
                {"constitution_version": "v1", "pair_id": f"{one:08x}", "principle_id": f"a{(one + principle) % 4}",
                 "order": order, "logp_a": math.log(mass * p_a), "logp_b": math.log(mass * (1 - p_a)),
                 "feedback_model": "judge"}
            )  # fmt: skip
    constitution = pl.DataFrame({"principle_id": [f"a{n}" for n in range(4)], "slug": [f"slug-{n}" for n in range(4)]})
    return (
        pl.DataFrame(judgements, schema_overrides={"rationale": pl.String}),
        pl.DataFrame(humans, schema={**TABLES["human_preferences"].schema}, strict=False),
        constitution,
    )


def same_side(p: float, q: float) -> float:
    return float(np.sign(round(p - 0.5, 9)) == np.sign(round(q - 0.5, 9)))


class Recomputed:
    """The figures of a slice, by loops over plain dicts."""

    def __init__(self, judgements: list[dict[str, Any]], humans: list[dict[str, Any]], alone: bool = False) -> None:
        self.people = {row["pair_id"]: row for row in humans}
        self.p: dict[str, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
        self.letters: dict[tuple[str, str], list[float]] = defaultdict(list)
        for row in judgements:
            chosen, rejected = (self.people[row["pair_id"]][side][0]["content"] for side in ("chosen", "rejected"))
            odds = math.exp(row["logp_a"] - row["logp_b"])
            shown_as_a = in_hash_order(chosen, rejected)[0 if row["order"] == "01" else 1]
            p = odds / (1 + odds) if shown_as_a == chosen else 1 / (1 + odds)
            self.p[row["pair_id"]][row["principle_id"]][row["order"]] = p
            self.letters[row["pair_id"], row["principle_id"]].append(odds)
        self.labels = [
            (pair, label)
            for pair, by_principle in self.p.items()
            for means in [[mean(by_order.values()) for by_order in by_principle.values()]]
            for label in (means if alone else [mean(means)])
        ]

    def y(self, pair: str) -> float:
        row = self.people[pair]
        votes = (row["votes_chosen"] or 0, row["votes_rejected"] or 0)
        return votes[0] / sum(votes) if sum(votes) else 1.0

    def voters(self, pair: str) -> int:
        return max(1, (self.people[pair]["votes_chosen"] or 0) + (self.people[pair]["votes_rejected"] or 0))

    def over_pairs(self, value: Any) -> float:
        found: dict[str, list[float]] = defaultdict(list)
        for pair, label in self.labels:
            found[pair].append(value(pair, label))
        return mean(mean(values) for values in found.values())

    def agrees(self, pair: str, label: float) -> float:
        if abs(label - 0.5) < 1e-12:
            return 0.5
        return self.y(pair) if label > 0.5 else 1 - self.y(pair)

    def figures(self) -> dict[str, float]:
        y, people = self.y, self.people
        longer = {
            pair: (len(row["chosen"][0]["content"]), len(row["rejected"][0]["content"])) for pair, row in people.items()
        }
        unequal = [pair for pair, lengths in longer.items() if pair in self.p and lengths[0] != lengths[1]]
        principles = {pair: [mean(one.values()) for one in found.values()] for pair, found in self.p.items()}
        several = [values for values in principles.values() if len(values) > 1]

        def longer_preferred(value: Any) -> float:
            shares: dict[str, list[float]] = defaultdict(list)
            for pair, label in self.labels:
                share = value(pair, label)
                shares[pair].append(share if longer[pair][0] > longer[pair][1] else 1 - share)
            return mean(mean(shares[pair]) for pair in unequal)

        figures = {
            "agreement": self.over_pairs(self.agrees),
            "log_loss": self.over_pairs(
                lambda pair, p: -y(pair) * math.log(p) - (1 - y(pair)) * math.log(1 - p)
            ),
            "brier_score": self.over_pairs(lambda pair, p: y(pair) * (1 - p) ** 2 + (1 - y(pair)) * p**2),
            "calibration_error": self.calibration_error(),
            "position_bias": mean((a > 1) == (b > 1) and a != 1 for a, b in self.letters.values()),
            "order_agreement": mean(same_side(a, b)
                for found in self.p.values() for a, b in (one.values() for one in found.values())
            ),
            "noise_orders": mean(mean(pvariance(one.values()) for one in found.values()) for found in self.p.values()),
            "noise_repeats": mean(
                mean(p * (1 - p) for one in found.values() for p in one.values()) for found in self.p.values()
            ),
            "bias": mean(
                (mean(values) - y(pair)) ** 2
                - (variance(values) / len(values) if len(values) > 1 else 0)
                - (y(pair) * (1 - y(pair)) / (self.voters(pair) - 1) if self.voters(pair) > 1 else 0)
                for pair, values in principles.items()
            ),
        }  # fmt: skip
        if unequal:
            verdict = longer_preferred(lambda pair, p: 0.5 if abs(p - 0.5) < 1e-12 else float(p > 0.5))
            people_say = longer_preferred(lambda pair, p: y(pair))
            figures |= {"longer_preferred": verdict, "length_bias": verdict - people_say}
        if several:
            figures["noise_principles"] = mean(variance(values) for values in several)
            figures["principle_agreement"] = mean(
                mean(same_side(a, b)
                     for a, b in itertools.combinations(values, 2)) for values in several
            )  # fmt: skip
        return figures

    def calibration_error(self) -> float:
        count = defaultdict(int)
        for pair, _ in self.labels:
            count[pair] += 1
        error = 0.0
        for number in range(10):
            inside = [(1 / count[pair], max(p, 1 - p), self.agrees(pair, p)) for pair, p in self.labels
                      if number == min(9, math.floor((max(p, 1 - p) - 0.5) * 20))]  # fmt: skip
            error += abs(sum(weight * (confidence - agrees) for weight, confidence, agrees in inside))
        return error / len(count)


def check(slices: list[dict[str, Any]], judgements: pl.DataFrame, humans: pl.DataFrame) -> None:
    """Each slice against the loops."""
    categories = dict(humans.select("pair_id", "category").iter_rows())
    for found in slices:
        kind, name = found["slice"], found["slice_value"]
        rows = [
            row for row in judgements.to_dicts()
            if kind in ("all", "one_principle")
            or (kind == "category" and categories[row["pair_id"]] == name)
            or (kind == "principle" and row["slug"] == name)
        ]  # fmt: skip
        expected = Recomputed(rows, humans.to_dicts(), alone=kind == "one_principle").figures()
        assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-9), (kind, name)
        assert found["pairs"] == len({row["pair_id"] for row in rows})
        if found["pairs"] > 1:
            assert found["agreement_low"] <= found["agreement"] <= found["agreement_high"]
        parts = ("noise_orders", "noise_principles", "noise_repeats")
        assert found["noise"] == pytest.approx(sum(found[part] or 0 for part in parts))


@pytest.mark.parametrize("principles", [1, 3])
def test_every_figure_is_what_loops_over_the_raw_rows_give(principles: int) -> None:
    judgements, humans, constitution = tables_of(30, principles)
    slices = [one.to_row() for one in calibrate(judgements, humans, constitution, seed=0)]
    kinds = [one["slice"] for one in slices]
    assert kinds == ["all", "one_principle", "category", "category", *["principle"] * 4, "humans"]
    check(slices[:-1], judgements.join(constitution, on="principle_id"), humans)


def test_people_against_each_other() -> None:
    """3:1 agree in 3 of 6 couples of voters, 2:2 in 2 of 6, 0:4 and 5:0 in all; single votes say nothing of it."""
    judgements, humans, constitution = tables_of(6, 1)
    people = calibrate(judgements, humans, constitution, seed=0)[-1]
    assert (people.slice, people.feedback_model, people.pairs) == ("humans", "humans", 4)
    assert people.agreement == pytest.approx(mean([3 / 6, 2 / 6, 1, 1]))
    assert people.noise == pytest.approx(mean([3 / 12, 4 / 12, 0, 0]))  # unbiased variance of a vote
    assert people.bias == 0


def test_noise_and_bias_are_the_expected_squared_error_of_a_verdict() -> None:
    """One principle and one human label: nothing is estimated, the two add up to the Brier score of a verdict."""
    judgements, humans, constitution = tables_of(40, 1)
    humans = humans.with_columns(
        pl.lit(None, pl.Int64).alias("votes_chosen"), pl.lit(None, pl.Int64).alias("votes_rejected")
    )
    found = calibrate(judgements, humans, constitution, seed=0)[0]
    error = mean(1 - p for one in Recomputed(judgements.to_dicts(), humans.to_dicts()).p.values() for o in one.values()
                 for p in o.values())  # fmt: skip
    assert found.noise is not None
    assert found.bias is not None
    assert found.noise + found.bias == pytest.approx(error)


def test_whom_the_file_names_first_changes_nothing_but_the_side() -> None:
    judgements, humans, constitution = tables_of(30, 2)
    swapped = humans.rename(
        {"chosen": "rejected", "rejected": "chosen", "votes_chosen": "votes_rejected", "votes_rejected": "votes_chosen"}
    )
    voted = pl.col("votes_chosen").is_not_null()
    here = calibrate(judgements, humans.filter(voted), constitution, seed=0)[0]
    there = calibrate(judgements, swapped.filter(voted), constitution, seed=0)[0]
    assert there.to_row() == pytest.approx(here.to_row())


def test_one_order_leaves_out_what_needs_two() -> None:
    judgements, humans, constitution = tables_of(12, 2, orders=("01",))
    found = calibrate(judgements, humans, constitution, seed=0)[0]
    assert (found.position_bias, found.order_agreement, found.noise_orders) == (None, None, None)
    assert found.noise_principles is not None


def test_a_judge_that_is_always_right_and_sure_has_no_error() -> None:
    judgements, humans, constitution = tables_of(20, 1)
    sides = {row["pair_id"]: [row[side][0]["content"] for side in ("chosen", "rejected")] for row in humans.to_dicts()}
    first = {pair_id: in_hash_order(*texts)[0] == texts[0] for pair_id, texts in sides.items()}
    rows = []
    for row in judgements.to_dicts():
        says_a = first[row["pair_id"]] == (row["order"] == "01")
        rows.append({**row, "logp_a": 0.0 if says_a else -40.0, "logp_b": -40.0 if says_a else 0.0})
    humans = humans.with_columns(
        pl.lit(None, pl.Int64).alias("votes_chosen"), pl.lit(None, pl.Int64).alias("votes_rejected")
    )
    judged = pl.DataFrame(rows, schema=judgements.schema)
    found = calibrate(judged, humans, constitution, seed=0)[0]
    assert (found.agreement, found.agreement_low, found.position_bias) == (1, 1, 0)
    assert (found.log_loss, found.brier_score, found.bias, found.noise) == pytest.approx((0, 0, 0, 0), abs=1e-6)
    assert [(one.confidence, one.agreement, one.share) for one in reliability(judged, humans)] == [(1, 1, 1)]


def write_pairs(tmp_path: Path, number: int) -> dict[str, Any]:
    file = tmp_path / "pairs.jsonl"
    rows = pairs_of(np.random.default_rng(3), number)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"sources": [str(file)]}


def test_human_pairs_are_judged_by_the_recipe_of_judgements_and_calibrated(home: Home, tmp_path: Path) -> None:
    config = {
        "human_preferences": write_pairs(tmp_path, 24),
        "calibration_judgements": {"max_pairs": 18, "principles_per_pair": 2},
    }
    result = materialize(CALIBRATION, config, raise_on_error=False)  # a judge by the alphabet may fail the check
    lake = open_lake(home)
    judgements = lake.snapshot("calibration_judgements", "v1").frame()
    assert judgements["pair_id"].n_unique() == 18
    assert judgements.height == 18 * 2 * 2
    assert metadata(result, "calibration_judgements")["ledger_misses"] == 72
    slugs = lake.snapshot("constitution", "v1").frame().select("principle_id", "slug")
    table = lake.snapshot("judge_calibration", "v1").frame()
    humans = lake.snapshot("human_preferences").frame().filter(pl.col("pair_id").is_in(judgements["pair_id"].to_list()))
    raw = judgements.join(slugs, on="principle_id")
    check(table.filter(pl.col("slice") != "humans").to_dicts(), raw, humans)
    shown = metadata(result, "judge_calibration")
    assert shown["reliability"].startswith("![")
    assert "| feedback model |" in shown["noise_and_bias"]
    assert "| humans |" in shown["noise_and_bias"]

    config["calibration_judgements"]["max_pairs"] = 24
    larger = materialize(CALIBRATION[:3], config)
    assert metadata(larger, "calibration_judgements")["ledger_hits"] == 72


def test_without_human_pairs_nothing_is_measured_and_nothing_fails(home: Home) -> None:
    result = materialize(CALIBRATION, {})
    assert result.success
    assert open_lake(home).snapshot("judge_calibration", "v1").frame().height == 0
    (evaluation,) = [one for one in result.get_asset_check_evaluations() if one.check_name == "judge_agreement"]
    assert evaluation.passed
    assert "nothing to measure" in str(evaluation.description)


@pytest.mark.parametrize(("right", "made"), [(True, True), (False, False)])
def test_a_bad_judge_keeps_its_labels_out_of_preference_pairs(
    home: Home, tmp_path: Path, right: bool, made: bool
) -> None:
    """The scripted judge prefers what comes first in the alphabet; here people always do, or never."""
    sides = ("chosen", "rejected") if right else ("rejected", "chosen")
    rows = [{"prompt": f"question {n}", sides[0]: f"a {n}", sides[1]: f"b {n}"} for n in range(12)]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {
        "human_preferences": {"sources": [str(file)]},
        "prompts": {"sources": [str(file)], "sft_share": 0.3, "preference_share": 0.5},
        "revision_rounds": {"rounds": 1},
        "sft_dataset": {"min_rows": 1},
        "response_pairs": {"source": "imported", "sources": [str(file)]},
    }
    pretend_trained(home, tmp_path / "checkpoint")
    imported = materialize([*WITHOUT_TRAINING, "response_pairs"], config, raise_on_error=False)
    lake = open_lake(home)
    assert set(lake.snapshot("response_pairs", "v1").frame()["source"]) == {"imported"}
    assert lake.rejected("response_pairs", "v1").height == 0
    assert metadata(imported, "response_pairs")["of_sft_prompts"] > 0
    result = materialize([*CALIBRATION, "judgements", "preference_pairs"], config, raise_on_error=False)
    assert bool(result.asset_materializations_for_node("preference_pairs")) == made


def test_the_plan_knows_the_calls_of_a_calibration(home: Home, tmp_path: Path) -> None:
    values = {"human_preferences": write_pairs(tmp_path, 10), "judge_calibration": {"max_pairs": 6}}
    settings = active_settings()
    changed = {name: getattr(settings, name).model_copy(update=update) for name, update in values.items()}
    policy, feedback_model = scripted_models()
    settings = settings.model_copy(update=changed)
    made = plan(home, settings, policy, feedback_model, ["v1"], ["human_preferences", "calibration_judgements"])
    (stage,) = made.stages
    expected = 6 * 2 * settings.judge_calibration.principles_per_pair
    assert (stage.asset, stage.calls, stage.new, stage.exact) == ("calibration_judgements", expected, expected, True)


def test_preference_pairs_wait_for_the_calibration() -> None:
    graph = definitions().resolve_asset_graph()
    assert dg.AssetKey("judge_calibration") in graph.get(dg.AssetKey("preference_pairs")).parent_keys
