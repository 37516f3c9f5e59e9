import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cai_dagster.home import Home
from cai_dagster.models.messages import Message
from cai_dagster.training.checkpoint_folders import CheckpointError, find_checkpoint
from cai_dagster.training.scored_texts import (
    BenchmarkError,
    Reading,
    UnscorableLineError,
    parse_line,
    read_benchmark,
    reading_of,
    score_lines,
)
from tests.labelled_pairs import FORMAT

READING = Reading(FORMAT, 1000, principle_conditioned=False)
CONDITIONED = Reading(FORMAT, 1000, principle_conditioned=True)


def by_length(rows: Sequence[Sequence[int]]) -> list[float]:
    return [len(row) / 10 for row in rows]


def scored(*lines: dict[str, Any] | str, reading: Reading = READING) -> list[Any]:
    """Each line's result, or its error."""
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    return [line.error or line.result for line in score_lines(texts, reading, by_length, 4)]


def test_a_completion_gets_a_reward() -> None:
    assert scored({"prompt": "abc", "completion": "de", "id": 7}) == [{"line": 1, "id": 7, "reward": 0.7}]


def test_a_pair_gets_both_rewards_their_margin_and_p() -> None:
    (result,) = scored({"prompt": "a", "chosen": "long one", "rejected": "short"})
    assert (result["reward_chosen"], result["reward_rejected"]) == (1.1, 0.8)
    assert result["margin"] == pytest.approx(0.3)
    assert result["p_chosen"] == pytest.approx(1 / (1 + math.exp(-0.3)))


@pytest.mark.parametrize("margin", [-2000, 2000])
def test_a_huge_margin_gives_a_probability(margin: float) -> None:
    line = json.dumps({"prompt": "a", "chosen": "b", "rejected": "c"})
    (made,) = score_lines([line], READING, lambda rows: [margin, 0.0], 4)
    assert made.result["p_chosen"] == (1.0 if margin > 0 else 0.0)


def test_messages_and_trl_completions_are_read_as_texts_are() -> None:
    plain = parse_line('{"prompt": "a", "chosen": "b", "rejected": "c"}')
    turns = {
        "messages": [{"role": "user", "content": "a"}],
        "chosen": [{"role": "assistant", "content": "b"}],
        "rejected": [{"role": "assistant", "content": "c"}],
    }
    assert parse_line(json.dumps(turns)) == plain
    dialogue = [("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c")]
    rows = [{"role": role, "content": content} for role, content in dialogue]
    assert parse_line(json.dumps({"prompt": rows, "completion": "d"})).prompt == tuple(
        Message(role, content) for role, content in dialogue
    )


def test_results_come_in_the_order_of_the_lines_whatever_their_length() -> None:
    lines = [{"prompt": "p", "completion": "x" * (number * 37 % 101 + 1)} for number in range(100)]
    made = scored(*lines)
    assert [result["line"] for result in made] == list(range(1, 101))
    assert [result["reward"] for result in made] == [(3 + len(line["completion"])) / 10 for line in lines]


def test_results_come_before_the_last_line_is_read() -> None:
    def endless() -> Any:
        while True:
            yield '{"prompt": "p", "completion": "x"}'

    assert next(score_lines(endless(), READING, by_length, 4)).result["line"] == 1


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "not JSON"),
        ("[1]", "not a JSON object"),
        ('{"completion": "a"}', "needs either `prompt` or `messages`"),
        ('{"prompt": "a", "messages": [], "completion": "a"}', "needs either `prompt` or `messages`"),
        ('{"prompt": "a"}', "there is no 'chosen'"),
        ('{"prompt": "a", "chosen": "b"}', "there is no 'rejected'"),
        ('{"prompt": "a", "completion": "c", "chosen": "b"}', "needs either `completion`, or"),
        ('{"prompt": " ", "completion": "c"}', "turn 1 is empty"),
        ('{"prompt": "a", "completion": ""}', "the completion has no word"),
        ('{"prompt": 3, "completion": "c"}', "prompt is not a list of turns"),
        ('{"messages": [], "completion": "c"}', "messages is not a list of turns"),
        ('{"messages": ["a"], "completion": "c"}', "turn 1 is not an object"),
        ('{"messages": [{"role": "tool", "content": "a"}], "completion": "c"}', "turn 1 has the role 'tool'"),
        ('{"messages": [{"role": "user", "content": 1}], "completion": "c"}', "turn 1 has no text"),
        (
            '{"messages": [{"role": "assistant", "content": "a"}], "completion": "c"}',
            "the last turn is the assistant's",
        ),
        ('{"prompt": "a", "completion": [{"role": "user", "content": "a"}]}', "one turn of the assistant's"),
        ('{"prompt": "\\ud800", "completion": "c"}', "turn 1 is not UTF-8"),
        ('{"prompt": "a", "completion": "c", "principle": ""}', "`principle` is not a text"),
        ('{"prompt": "a", "completion": "c", "principle": "be kind"}', "not trained to read a `principle`"),
    ],
)
def test_a_bad_line_is_named_with_its_reason_and_stops_no_other(line: str, said: str) -> None:
    good = {"prompt": "a", "completion": "b"}
    first, bad, blank_skipped = scored(good, line, "  \n", good)
    assert first["reward"] == blank_skipped["reward"]
    assert blank_skipped["line"] == 4
    assert bad.startswith("unscorable_line: ")
    assert said in bad


def test_a_conditioned_model_reads_the_principle_and_misses_none_in_silence() -> None:
    line = {"prompt": "a", "completion": "c", "principle": "be kind"}
    with_one, without = scored(line, {"prompt": "a", "completion": "c"}, reading=CONDITIONED)
    framed = "Principle:\n> be kind\n\nConversation:\na"
    assert with_one == {"line": 1, "principle": "be kind", "reward": (len(framed) + 3) / 10}
    assert "has no `principle`" in without


def test_a_pair_that_truncation_makes_identical_is_refused() -> None:
    line = {"prompt": "a", "chosen": "same one", "rejected": "same other"}
    (said,) = scored(line, reading=Reading(FORMAT, 5, principle_conditioned=False))
    assert "identical in their first 5 tokens" in said


def test_a_benchmark_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"nothing\.jsonl does not exist"):
        read_benchmark(tmp_path / "nothing.jsonl", READING)


def test_a_benchmark_is_read_by_subset(tmp_path: Path) -> None:
    file = tmp_path / "b.jsonl"
    pair = {"prompt": "p", "chosen": "yes", "rejected": "no"}
    file.write_text(
        "\n".join(
            json.dumps(line) for line in (pair | {"subset": "x"}, pair, pair | {"subset": 3}, pair | {"subset": [3]})
        )
    )
    subsets, rejected = read_benchmark(file, READING)
    assert {name: len(pairs) for name, pairs in subsets.items()} == {"x": 1, "all": 1, "3": 1}
    assert subsets["x"][0].p_chosen == 1
    assert [(line.place, line.reason) for line in rejected] == [
        ("b.jsonl:4", "bad_cell: subset is '[3]'; a category is one text")
    ]


def checkpoint(home: Home, key: str, asset: str = "reward_model") -> Path:
    folder = home.models / asset / key
    folder.mkdir(parents=True)
    (folder / "record.json").write_text("{}")
    return folder


def test_a_checkpoint_is_found_by_key_by_its_first_digits_and_by_folder(home: Home) -> None:
    one, other = checkpoint(home, "abcd12"), checkpoint(home, "abef34")
    (one / "config.json").write_text("{}")
    assert find_checkpoint(home, "reward_model", "abcd12") == one
    assert find_checkpoint(home, "reward_model", "abe") == other
    assert find_checkpoint(home, "reward_model", str(one)) == one


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("ab", "'ab' is the beginning of several keys.*abcd12, abef34"),
        ("ff", "'ff' is neither a folder with a model nor a key.*abcd12, abef34"),
        ("", "neither"),
        ("*", "neither"),
    ],
)
def test_another_name_is_refused_with_those_there_are(home: Home, name: str, said: str) -> None:
    checkpoint(home, "abcd12")
    checkpoint(home, "abef34")
    checkpoint(home, "ffff", asset="sl_cai_model")
    with pytest.raises(CheckpointError, match=said):
        find_checkpoint(home, "reward_model", name)


def test_a_folder_that_is_no_reward_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    with pytest.raises(CheckpointError, match="not a reward model"):
        reading_of(tmp_path)


def test_a_folder_without_safetensors_is_refused(tmp_path: Path) -> None:
    one_output = {"architectures": ["LlamaForSequenceClassification"], "id2label": {"0": "reward"}}
    (tmp_path / "config.json").write_text(json.dumps(one_output))
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickled")
    with pytest.raises(CheckpointError, match="no safetensors file"):
        reading_of(tmp_path)


def test_an_error_is_a_row_error() -> None:
    with pytest.raises(UnscorableLineError):
        parse_line("")
