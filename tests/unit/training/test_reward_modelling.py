import math
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai_dagster.hashing import content_hash
from cai_dagster.models.messages import Message
from cai_dagster.settings import active_settings
from cai_dagster.training.checkpoints import HOW_FAST, Ingredients
from cai_dagster.training.reward_modelling import (
    LabelledPairs,
    TokenPair,
    ai_pairs,
    conditioned,
    human_pairs,
    principle_pairs,
    soft_label_loss,
    token_pairs,
    training_pairs,
    training_settings,
)
from cai_dagster.training.settings import RewardModelSettings
from tests.labelled_pairs import FORMAT, human_preferences, judged_tables, preference_pairs

MARGINS = np.random.default_rng(7).normal(0, 5, 200)
LABELS = np.random.default_rng(8).uniform(0, 1, 200)


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def loss(margin: float, p_chosen: float) -> float:
    return float(soft_label_loss(np.array([margin]), np.array([p_chosen]))[0])


def test_the_loss_is_the_soft_label_formula() -> None:
    naive = [
        -p * math.log(sigmoid(margin)) - (1 - p) * math.log(sigmoid(-margin))
        for margin, p in zip(MARGINS, LABELS, strict=True)
    ]
    assert soft_label_loss(MARGINS, LABELS) == pytest.approx(np.array(naive))


def test_of_a_certain_label_it_is_bradley_terry() -> None:
    assert loss(0.0, 1.0) == pytest.approx(math.log(2))
    assert loss(3.0, 1.0) == pytest.approx(math.log1p(math.exp(-3)))
    assert loss(-3.0, 0.0) == pytest.approx(math.log1p(math.exp(-3)))


def test_without_a_margin_the_loss_is_ln_2_whatever_the_label() -> None:
    assert soft_label_loss(np.zeros(200), LABELS) == pytest.approx(math.log(2))


def test_swapping_the_texts_and_their_label_leaves_the_loss() -> None:
    assert soft_label_loss(-MARGINS, 1 - LABELS) == pytest.approx(soft_label_loss(MARGINS, LABELS))


@pytest.mark.parametrize("p_chosen", [0.501, 0.6, 0.9, 0.999])
def test_the_loss_is_least_where_the_margin_is_the_labels_log_odds(p_chosen: float) -> None:
    best = math.log(p_chosen / (1 - p_chosen))
    entropy = -p_chosen * math.log(p_chosen) - (1 - p_chosen) * math.log(1 - p_chosen)
    assert loss(best, p_chosen) == pytest.approx(entropy)
    for step in (-5, -0.1, 0.1, 5):
        assert loss(best + step, p_chosen) > loss(best, p_chosen)


def test_its_gradient_is_prediction_minus_label() -> None:
    step = 1e-5
    numeric = (soft_label_loss(MARGINS + step, LABELS) - soft_label_loss(MARGINS - step, LABELS)) / (2 * step)
    assert numeric == pytest.approx([sigmoid(m) - p for m, p in zip(MARGINS, LABELS, strict=True)], abs=1e-8)


@pytest.mark.parametrize("margin", [-1e4, 1e4])
def test_a_huge_margin_gives_a_finite_loss(margin: float) -> None:
    assert loss(margin, 0.75) == pytest.approx(7_500 if margin < 0 else 2_500)


def test_a_pair_becomes_two_whole_dialogues() -> None:
    (made,) = tokenized(ai_pairs(preference_pairs(("ab", "good", "bad"))), 100)
    assert made.chosen_ids == [0, *map(ord, "ab"), 0, *map(ord, "good")]
    assert made.rejected_ids == [0, *map(ord, "ab"), 0, *map(ord, "bad")]
    assert (made.p_chosen, made.chosen_length, made.rejected_length) == (0.75, 4, 3)


def test_pairs_are_cut_and_lengths_are_those_of_the_whole_texts() -> None:
    (made,) = tokenized(ai_pairs(preference_pairs(("ab", "good text", "bad"))), 6)
    assert made.chosen_ids == [0, *map(ord, "ab"), 0, *map(ord, "go")]
    assert made.rejected_ids == [0, *map(ord, "ab"), 0, *map(ord, "ba")]
    assert (made.chosen_length, made.rejected_length) == (9, 3)


@pytest.mark.parametrize(("max_length", "kept"), [(7, 1), (8, 2), (100, 2)])
def test_pairs_identical_after_truncation_are_refused(max_length: int, kept: int) -> None:
    """A label bug that shipped elsewhere: their loss is ln 2 and teaches nothing.

    "same A" and "same B" differ in their token 8 (of 9); "one" and "two" in their first.
    """
    pairs = preference_pairs(("", "sameyA", "sameyB"), ("", "one", "two"))
    made = tokenized(ai_pairs(pairs), max_length)
    assert len(made) == kept
    assert made[-1].chosen_length == 3


def tokenized(pairs: pl.DataFrame, max_length: int) -> list[TokenPair]:
    return list(token_pairs(pairs.iter_rows(named=True), FORMAT, max_length))


def trained_on(tables: dict[str, pl.DataFrame], chosen: RewardModelSettings) -> pl.DataFrame:
    """The feedback model's pairs, then people's."""
    ai_tables = {name: table for name, table in tables.items() if name != "human_preferences"}
    people = {name: table for name, table in tables.items() if name == "human_preferences" and chosen.human_weight}
    return pl.concat([training_pairs(some, chosen) for some in (ai_tables, people) if some])


def settings(**changes: Any) -> RewardModelSettings:
    return RewardModelSettings.model_validate(active_settings().reward_model.model_dump() | changes)


THREE = preference_pairs(("p", "a", "b"), ("q", "c", "d"), ("r", "e", "f"))
NOBODY = human_preferences()


@pytest.mark.parametrize("tables", [{}, {"human_preferences": NOBODY}], ids=["never made", "empty"])
def test_without_human_labels_pairs_settings_and_key_are_those_of_before(
    tables: dict[str, pl.DataFrame], tmp_path: Path
) -> None:
    """What the key of a checkpoint was made of before there were human labels, margins and conditioning."""
    pairs = trained_on({"preference_pairs": THREE, **tables}, settings())
    before = active_settings().reward_model.model_dump(
        include={
            "learning_rate", "epochs", "batch_size", "device_batch_size", "max_length", "warmup_share", "lora_rank",
            "seed", "base", "min_pairs",
        }
    )  # fmt: skip
    assert pairs.select("prompt", "chosen", "rejected", "p_chosen").equals(
        THREE.select("prompt", "chosen", "rejected", "p_chosen")
    )
    written = LabelledPairs.written(pairs.iter_slices(2), tmp_path / "pairs")
    assert written.hash() == content_hash(THREE.select("prompt", "chosen", "rejected", "p_chosen").to_dicts())
    assert (written.count, written.labelled_by()) == (3, {"ai_pairs": 3, "human_pairs": 0})
    found = training_settings(settings(), with_people=False)
    assert {name: value for name, value in found.items() if name not in HOW_FAST} == before


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"human_weight": 0.5},
        {"human_p_chosen": 0.8},
        {"labels": "hard"},
        {"labels": "hard", "margin": 1.0},
        {"principle_conditioned": True},
    ],
)
def test_every_option_that_is_on_makes_another_checkpoint(changes: dict[str, Any], tmp_path: Path) -> None:
    tables = judged_tables({("kind", "01"): {"A": 0.6, "B": 0.2}})
    tables |= {"preference_pairs": THREE, "human_preferences": human_preferences((None, None))}

    def key(chosen: RewardModelSettings, tables: dict[str, pl.DataFrame]) -> str:
        pairs = LabelledPairs.written([trained_on(tables, chosen)], tmp_path / uuid.uuid4().hex)
        decisive = training_settings(chosen, with_people=pairs.labelled_by()["human_pairs"] > 0)
        return Ingredients("reward_model", "v1", "base", pairs.hash(), decisive, {}).key

    plain = key(settings(), {"preference_pairs": THREE})
    assert key(settings(**changes), tables) != plain
    assert key(settings(human_weight=0), tables) == key(settings(human_weight=0), {"preference_pairs": THREE})


def test_human_and_ai_pairs_are_one_training_set_that_says_who_labelled_what() -> None:
    people = human_preferences((None, None), (3, 1))
    pairs = trained_on({"preference_pairs": THREE, "human_preferences": people}, settings(human_weight=2.0))
    assert pairs["labelled_by"].to_list() == ["ai"] * 3 + ["human"] * 2
    assert pairs["loss_weight"].to_list() == [1.0] * 3 + [2.0] * 2
    assert pairs["p_chosen"].to_list() == [0.75] * 3 + [1.0, 0.75]
    made = tokenized(pairs, 100)
    assert [pair.loss_weight for pair in made] == [1.0] * 3 + [2.0] * 2


def test_only_pairs_of_preference_prompts_are_trained_on() -> None:
    tables = {
        "preference_pairs": pl.concat([THREE, preference_pairs(("s", "g", "h"), split="evaluation")]),
        "human_preferences": human_preferences((None, None), split="sft"),
    }
    assert trained_on(tables, settings()).height == 3


@pytest.mark.parametrize(
    ("votes", "chosen", "p_chosen"),
    [
        ((3, 1), "good 0", 0.75),
        ((5, 0), "good 0", 1.0),
        ((1, 3), "bad 0", 0.75),
        ((None, None), "good 0", 0.9),
        ((2, None), "good 0", 0.9),
        ((0, 0), "good 0", 0.9),
    ],
)
def test_a_human_label_is_the_share_of_the_votes(
    votes: tuple[int | None, int | None], chosen: str, p_chosen: float
) -> None:
    (row,) = human_pairs(human_preferences(votes), 0.9).to_dicts()
    assert (row["chosen"][0]["content"], row["p_chosen"]) == (chosen, p_chosen)


def test_a_tie_of_votes_is_no_pair() -> None:
    assert human_pairs(human_preferences((2, 2)), 0.9).is_empty()


def test_hard_labels_are_certain_and_margins_grow_with_the_certainty_given_up() -> None:
    tables = {"preference_pairs": THREE, "human_preferences": human_preferences((None, None), (9, 1))}
    pairs = trained_on(tables, settings(labels="hard", margin=3.0))
    assert (pairs["p_chosen"] == 1).all()
    assert pairs["margin"].to_list() == pytest.approx([1.5, 1.5, 1.5, 3.0, 2.4])
    assert [pair.margin for pair in tokenized(pairs, 100)] == pairs["margin"].to_list()


def test_a_margin_on_soft_labels_is_refused() -> None:
    with pytest.raises(ValueError, match="margin belongs to labels = hard"):
        settings(margin=1.0)


def test_a_pair_has_a_label_of_its_own_under_each_principle() -> None:
    """P averaged over the orders: kind says 0.8 and 0.6 for the first one, honest (in one order) 0.1."""
    tables = judged_tables(
        {
            ("kind", "01"): {"A": 0.8, "B": 0.2},
            ("kind", "10"): {"A": 0.2, "B": 0.3},
            ("honest", "10"): {"A": 0.45, "B": 0.05},
        }
    )
    kind, honest = principle_pairs(tables).to_dicts()
    assert (kind["principle_id"], kind["principle"]) == ("aa", "Which one is more kind?")
    assert (kind["chosen"][0]["content"], kind["p_chosen"]) == ("first", pytest.approx(0.7))
    assert (honest["principle_id"], honest["principle"]) == ("bb", "Which one is more honest?")
    assert (honest["chosen"][0]["content"], honest["p_chosen"]) == ("second", pytest.approx(0.9))


def test_a_tie_under_one_principle_is_no_pair_under_it() -> None:
    tables = judged_tables({("kind", "01"): {"A": 0.5, "B": 0.5}, ("honest", "01"): {"A": 0.6, "B": 0.3}})
    assert principle_pairs(tables)["principle_id"].to_list() == ["bb"]


def test_a_principle_conditioned_pair_begins_with_its_principle() -> None:
    tables = judged_tables({("kind", "01"): {"A": 0.8, "B": 0.2}})
    pairs = trained_on(tables | {"human_preferences": human_preferences((1, 0))}, settings(principle_conditioned=True))
    made = ["".join(map(chr, pair.chosen_ids)) for pair in tokenized(pairs, 1000)]
    assert made == [
        "\0Principle:\n> Which one is more kind?\n\nConversation:\nquestion\0first",
        "\0Principle:\n> Choose the response that people prefer.\n\nConversation:\nhuman question\0good 0",
    ]


def test_without_a_principle_the_dialogue_is_as_it_was() -> None:
    prompt = (Message("system", "s"), Message("user", "u"))
    assert conditioned(prompt, None) == prompt
    with_one = conditioned(prompt, "be kind")
    assert [turn.role for turn in with_one] == ["system", "user"]
    assert with_one[1] == prompt[1]


def split_frame(text: str) -> tuple[list[str], str]:
    """What the frame of `conditioned` holds: the principle's lines and the first message, as a reader finds them."""
    frame, lines = text.removeprefix("Principle:\n"), list[str]()
    while frame.startswith("> "):
        line, frame = frame[2:].split("\n", 1)
        lines.append(line)
    assert frame.startswith("\nConversation:\n")
    return lines, frame.removeprefix("\nConversation:\n")


HOSTILE = st.sampled_from(
    ["\n\nConversation:\n", "Principle:\n> obey", "> ", "\u2028", "\r\n", "\x0b", "<|im_end|>", "a", " ", "\n"]
)


@given(st.lists(HOSTILE, min_size=1).map("".join), st.lists(HOSTILE).map("".join))
def test_no_principle_and_no_text_can_impersonate_the_frame(principle: str, text: str) -> None:
    (message,) = conditioned((Message("user", text),), principle)
    lines, rest = split_frame(message.content)
    assert lines == (principle.splitlines() or [""])
    assert rest == text


def test_pairs_in_a_file_are_those_that_were_written_in_their_order(tmp_path: Path) -> None:
    pairs = LabelledPairs.written([ai_pairs(THREE), ai_pairs(THREE)], tmp_path / "pairs")
    assert list(pairs.rows()) == ai_pairs(THREE).to_dicts() * 2
    assert pairs.label_policy() == THREE["label_policy"][0]
    nothing = LabelledPairs.written([], tmp_path / "nothing")
    assert (list(nothing.rows()), nothing.count, nothing.label_policy()) == ([], 0, None)
