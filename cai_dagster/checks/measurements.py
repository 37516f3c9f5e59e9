"""What the checks measure: one number over one table of one constitution version, and rows that show it.

Each function has the name of its check in `checks`. It knows no bounds and no Dagster. Tables are read lazily, column
by column, so that memory does not grow with their texts; what counts words does so on a sample, or on hashes of them.
"""

from collections.abc import Iterator
from typing import Any, cast

import polars as pl

from cai_dagster.checks.languages import language
from cai_dagster.checks.measurement import Measurement, Tables
from cai_dagster.checks.refusals import refuses
from cai_dagster.inputs.word_sequences import near_duplicates as nearly_equal
from cai_dagster.inputs.word_sequences import repeated_shares, shared_phrases, signatures
from cai_dagster.judging import label_statistics
from cai_dagster.judging.label_policies import SOFT_MEAN, p_first_under
from cai_dagster.lake.forgotten_prompts import FORGOTTEN
from cai_dagster.text import printable

EXPECTED_DRAWS = 5
EXAMPLES = 5
EXCERPT = 300  # characters of a text that are shown
SAMPLE = 20_000  # answers in which words are counted
LANGUAGE_SAMPLE = 5_000  # revisions whose language is told
SAMPLED_CHARACTERS = 30_000_000  # of texts in a sample
REPEATED_WORDS = 4
PHRASE_WORDS = 6
SHINGLE_WORDS = 3
NEARLY_EQUAL = 0.8
_BATCH = 4_096
_SCORES = ("accuracy", "accuracy_low", "longer_wins_accuracy", "length_correlation")
_IDS = ("prompt_id", "sample", "round", "pair_id", "policy")
_TEXTS = ("response", "critique", "revision", "completion", "completion_0", "completion_1", "answer")


def rejected_share(tables: Tables) -> Measurement:
    """What was set aside, of all that there was to work on; a forgotten prompt is none of them.

    What is kept may have become several rows (rounds, samples, principles and orders); what is set aside is one.
    """
    refused = tables.rejected.filter(~pl.col("reason").str.starts_with(f"{FORGOTTEN}:"))
    rejected, kept = refused.height, _count(_worked_on(tables.rows))
    examples = _shown(refused.lazy().select("row_id", "reason", "row")) if rejected else []
    return Measurement(rejected / max(1, rejected + kept), rejected + kept, examples)


def _worked_on(rows: pl.LazyFrame) -> pl.LazyFrame:
    """A row for each prompt, response or pair that the rows were made of."""
    names = rows.collect_schema().names()
    if "round" in names:
        return rows.select("prompt_id", "sample").unique()
    if "order" in names:
        return rows.select([name for name in ("pair_id", "policy_0", "policy_1") if name in names]).unique()
    if "sample" in names:
        return rows.select("prompt_id").unique()
    if "request_id_1" in names:  # of pairs that were imported each is a line of a file, of others a prompt's
        line = pl.when(pl.col("source") == "imported").then(pl.col("pair_id"))
        return rows.select("prompt_id", line.alias("line")).unique()
    return rows


def unfinished_completions(tables: Tables) -> Measurement:
    """Completions that were cut at max_tokens, of all completions in the table."""
    columns = [name for name in tables.rows.collect_schema().names() if "finish_reason" in name]
    cut = pl.sum_horizontal(pl.col(column) == "length" for column in columns)
    rows, total = tables.rows.select(pl.len(), cut.sum().alias("cut")).collect().row(0)
    share = _share(total, rows * len(columns))
    return Measurement(share, rows, _examples(tables.rows.filter(cut > 0), *columns))


def unchanged_revisions(tables: Tables) -> Measurement:
    """Revisions that are, but for white space at the ends, the response they should have revised."""
    same = pl.col("revision").str.strip_chars() == pl.col("response").str.strip_chars()
    return _share_of(tables.rows, same, _examples(tables.rows.filter(same).drop("critique")))


def principle_coverage(tables: Tables) -> Measurement:
    """Principles that were drawn, of those whose weight lets one expect it: five draws or more.

    Of five expected draws none comes with probability e^-5, less than one in a hundred; of one, every third time.
    """
    principles = tables.others["constitution"].collect()
    share = pl.col("weight") / pl.col("weight").sum()
    due = principles.filter(share * _count(tables.rows) >= EXPECTED_DRAWS)
    drawn = tables.rows.select(pl.col("principle_id").unique()).collect()["principle_id"]
    missing = due.filter(~pl.col("principle_id").is_in(drawn.implode()))
    examples = _shown(missing.lazy().select("slug", "critique_request", "weight"))
    return Measurement(_share(due.height - missing.height, due.height), due.height, examples)


def refusals(tables: Tables) -> Measurement:
    """Answers that begin as refusals do."""
    answers, refused = _answers(tables.rows), refuses(pl.col("answer"))
    return _share_of(answers, refused, _examples(answers.filter(refused)))


def repetition(tables: Tables) -> Measurement:
    """Mean seq-rep-4 of (a sample of) the answers: 1 − different four-word sequences of a text / all of them."""
    answers = _sample(_answers(tables.rows), SAMPLE)
    shares = answers.with_columns(repeated_shares(answers["answer"], REPEATED_WORDS).alias("repeated"))
    worst = shares.filter(pl.col("repeated") > 0).sort(-pl.col("repeated"), *_ids(shares))
    return Measurement(_mean(shares["repeated"]), shares.height, _shown(worst.lazy()))


def shared_phrase(tables: Tables) -> Measurement:
    """The share of prompts whose answers have the most common six words in common; of several policies, the worst."""
    answers = _sample(_answers(tables.rows), SAMPLE)
    examples: list[dict[str, Any]] = []
    policies = answers.partition_by("policy") if "policy" in answers.columns else [answers]
    for own in policies:
        prompts = own["prompt_id"].n_unique()
        for phrase in shared_phrases(own["answer"], own["prompt_id"], PHRASE_WORDS, EXAMPLES):
            shown = own.lazy().slice(phrase.text, 1).select(*(name for name in own.columns if name != "sample"))
            counted = {"phrase": phrase.words[:EXCERPT], "share": phrase.owners / prompts, "prompts": phrase.owners}
            examples += [{**counted, **row} for row in _shown(shown)]
    examples.sort(key=lambda one: (-one["share"], one["phrase"]))
    value = examples[0]["share"] if examples else 0.0
    return Measurement(value if answers.height else None, answers.height, examples[:EXAMPLES])


def near_duplicates(tables: Tables) -> Measurement:
    """Prompts whose last revision is nearly that of another: by Jaccard similarity of their three-word sequences."""
    answers = _answers(tables.rows)
    ids: list[pl.DataFrame] = []

    def texts() -> Iterator[pl.Series]:
        for batch in answers.collect_batches(chunk_size=_BATCH):
            ids.append(batch.drop("answer"))
            yield batch["answer"]

    rows = signatures(texts(), SHINGLE_WORDS)
    if not len(rows):
        return Measurement(None, 0, [])
    known = pl.concat(ids)
    owners = known["prompt_id"].rank("dense").cast(pl.Int64).to_numpy()
    found = nearly_equal(rows, owners, NEARLY_EQUAL)
    other = known[found.other.clip(0)].rename(lambda name: f"other_{name}")
    pairs = pl.concat([known, other], how="horizontal").with_columns(pl.Series("similarity", found.similarity))
    pairs = pairs.filter(pl.Series(found.other >= 0))
    prompts = known["prompt_id"].n_unique()
    share = pairs["prompt_id"].n_unique() / prompts
    shown = pairs.filter(pl.col("prompt_id") < pl.col("other_prompt_id")).sort(
        "similarity", "prompt_id", descending=[True, False]
    )
    return Measurement(share, prompts, _with_both_texts(shown.head(EXAMPLES), answers))


def language_change(tables: Tables) -> Measurement:
    """Of (a sample of) the first responses and last revisions of which both languages can be told, those that differ.

    Round by round a change would count once in all rounds, and the more rounds the less.
    """
    one = ["prompt_id", "sample"]
    first = tables.rows.filter(pl.col("round") == 1).select(*one, "response")
    last = tables.rows.filter(pl.col("round") == pl.col("round").max()).select(*one, "revision")
    rows = _sample(first.join(last, on=one), LANGUAGE_SAMPLE)
    told = rows.with_columns(
        pl.Series(f"{name}_language", [language(text) for text in rows[name]], dtype=pl.String)
        for name in ("response", "revision")
    ).drop_nulls()
    changed = told.filter(pl.col("response_language") != pl.col("revision_language"))
    return Measurement(_share(changed.height, told.height), told.height, _examples(changed.lazy(), *told.columns[-2:]))


def identical_pairs(tables: Tables) -> Measurement:
    """Pairs of one text, but for white space at the ends."""
    same = pl.col("completion_0").str.strip_chars() == pl.col("completion_1").str.strip_chars()
    return _share_of(tables.rows, same, _examples(tables.rows.filter(same).drop("completion_1")))


def missing_judgements(tables: Tables) -> Measurement:
    """Judgements that one would expect of each pair whose completions differ: as many as the pair with most has."""
    pairs = tables.others["response_pairs"].filter(pl.col("completion_0") != pl.col("completion_1"))
    judged = tables.rows.group_by("pair_id").agg(pl.len().alias("judgements"))
    counts = pairs.select("pair_id").join(judged, on="pair_id", how="left").fill_null(0).collect()
    most = cast("int | None", counts["judgements"].max())
    if not most:
        return Measurement(1.0 if counts.height else None, counts.height, _with_completions(counts, tables))
    expected = most * counts.height
    share = (expected - int(counts["judgements"].sum())) / expected
    missing = counts.filter(pl.col("judgements") < most).sort("judgements", "pair_id")
    return Measurement(share, expected, _with_completions(missing, tables))


def label_mass(tables: Tables) -> Measurement:
    """Mean of P(A) + P(B). Far below 1, the model was about to say something else, and its labels are noise."""
    mass = tables.rows.select("pair_id", "principle_id", "order", label_statistics.label_mass().alias("mass"))
    least = mass.sort("mass", "pair_id", "principle_id", "order").head(EXAMPLES).collect()
    total, rows = mass.select(pl.col("mass").sum(), pl.len()).collect().row(0)
    return Measurement(_share(total, rows), rows, _with_completions(least, tables))


def position_bias(tables: Tables) -> Measurement:
    """Pairs and principles judged in both orders whose verdict names the same position both times."""
    swapped = label_statistics.same_letter(tables.rows).collect()
    same = swapped.filter("same").sort("pair_id", "principle_id").drop("same")
    return Measurement(_share(same.height, swapped.height), swapped.height, _with_completions(same, tables))


def undecided_pairs(tables: Tables) -> Measurement:
    """Pairs of which the judgements, both orders and all principles together, say next to nothing."""
    labels = p_first_under(tables.rows, SOFT_MEAN).collect()
    undecided = labels.filter(label_statistics.undecided()).sort((pl.col("p_0") - 0.5).abs(), "pair_id")
    return Measurement(_share(undecided.height, labels.height), labels.height, _with_completions(undecided, tables))


def judge_agreement(tables: Tables) -> Measurement:
    """The lower end of the interval of agreement with humans, of labels by one principle each; 0 for a single pair."""
    columns = ["slice", "slice_value", "pairs", "agreement", "agreement_low", "agreement_high"]
    rows = tables.rows.select(columns).collect()
    gate = rows.filter(pl.col("slice") == "one_principle").to_dicts()
    if not gate:
        return Measurement(None, 0, [])
    return Measurement(
        gate[0]["agreement_low"] or 0.0, gate[0]["pairs"], _shown(rows.sort("agreement").lazy()), gate[0]["agreement"]
    )


def length_ratio(tables: Tables) -> Measurement:
    """Mean characters of chosen over mean characters of rejected completions."""
    texts = {name: pl.col(name).list.last().struct.field("content") for name in ("chosen", "rejected")}
    counted = {name: text.str.len_chars().cast(pl.Int64) for name, text in texts.items()}
    lengths = tables.rows.select("pair_id", **counted)
    chosen, rejected, rows = lengths.select(pl.col("chosen").sum(), pl.col("rejected").sum(), pl.len()).collect().row(0)
    widest = (pl.col("chosen_characters") - pl.col("rejected_characters")).abs()
    counts = {f"{name}_characters": length for name, length in counted.items()}
    excerpts = {name: text.str.slice(0, EXCERPT + 1) for name, text in texts.items()}
    examples = tables.rows.select("pair_id", **counts, **excerpts).sort(widest, "pair_id", descending=[True, False])
    return Measurement(chosen / max(1, rejected) if rows else None, rows, _shown(examples))


def reward_accuracy(tables: Tables) -> Measurement:
    """The lower end of the interval of accuracy over all held-out pairs; 0 where there is none, of a single prompt."""
    overall, examples = _evaluation(tables, pl.col("accuracy"))
    if not overall:
        return Measurement(None, 0, [])
    return Measurement(overall["accuracy_low"] or 0.0, overall["pairs"], examples, overall["accuracy"])


def reward_over_length(tables: Tables) -> Measurement:
    """Accuracy minus that of the baseline that prefers the longer completion."""
    overall, examples = _evaluation(tables, pl.col("accuracy") - pl.col("longer_wins_accuracy"))
    if not overall:
        return Measurement(None, 0, [])
    return Measurement(overall["accuracy"] - overall["longer_wins_accuracy"], overall["pairs"], examples)


def reward_length_correlation(tables: Tables) -> Measurement:
    """Spearman's ρ of reward and characters; null where all rewards or all lengths are equal."""
    overall, examples = _evaluation(tables, -pl.col("length_correlation").abs())
    if not overall:
        return Measurement(None, 0, [])
    return Measurement(overall["length_correlation"], overall["pairs"], examples)


def drift(tables: Tables) -> Measurement:
    """The largest change of what the other checks measured, against the base of the version (or the rows before)."""
    changes: list[dict[str, Any]] = []
    for name, now in tables.measured.items():
        before = _before(tables, name)
        if now.value is None or before is None:
            continue
        against = before["constitution_version"] or before["data_version"]
        values = {"value": now.value, "before": before["value"], "change": now.value - before["value"]}
        changes.append({"check": name, **values, "against": against, "rows": now.rows, "rows_before": before["rows"]})
    changes.sort(key=lambda change: (-abs(change["change"]), change["check"]))
    value = abs(changes[0]["change"]) if changes else None
    return Measurement(value, len(changes), [change for change in changes if change["change"]])


def _before(tables: Tables, check: str) -> dict[str, Any] | None:
    """The result to compare with: the latest of the version that this one is based on, or of the next base with one.

    Not the latest in time: measuring an old version again, or many at once, compares each with the same one.
    A table without versions is compared with what was measured on its rows before these.
    """
    if tables.history.is_empty():
        return None
    results = tables.history.filter(pl.col("check_name") == check, pl.col("value").is_not_null())
    version = tables.constitution_version
    if version is None:
        earlier = results.filter(pl.col("data_version") != tables.data_version)
    else:
        measured = set(results["constitution_version"])
        base = next((base for base in tables.bases if base in measured), "")
        earlier = results.filter(pl.col("constitution_version") == base)
    return earlier.row(-1, named=True) if earlier.height else None


def _evaluation(tables: Tables, worst_first: pl.Expr) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """The row of all held-out pairs, and the worst slices."""
    rows = tables.rows.collect()
    overall = rows.filter(pl.col("slice") == "all").to_dicts()
    shown = (
        rows.sort(worst_first, "slice", "slice_value", nulls_last=True)
        .lazy()
        .select("slice", "slice_value", "pairs", *_SCORES)
    )
    return overall[0] if overall else None, _shown(shown)


def _answers(rows: pl.LazyFrame) -> pl.LazyFrame:
    """What a policy said in the end, a row each: ids and `answer`. Of revisions the last, of pairs both completions."""
    names = rows.collect_schema().names()
    ids = [name for name in _IDS if name in names]
    if "revision" in names:
        last = rows.filter(pl.col("round") == pl.col("round").max())
        return last.select(*ids, pl.col("revision").alias("answer"))
    completions = [name for name in names if name.startswith("completion")]
    return pl.concat([rows.select(*ids, pl.col(name).alias("answer")) for name in completions])


def _sample(rows: pl.LazyFrame, most: int) -> pl.DataFrame:
    """About `most` rows, all of some prompts: ids are hashes, so the first do as well as any, and in every version.

    Fewer, where their texts are long: what counts words needs a hundred times their memory.
    """
    names = rows.collect_schema().names()
    texts = [pl.col(name).str.len_chars().cast(pl.Int64).sum() for name in names if name not in _IDS]
    count, characters = rows.select(pl.len(), pl.sum_horizontal(pl.lit(0), *texts).alias("characters")).collect().row(0)
    share = min(most / max(1, count), SAMPLED_CHARACTERS / max(1, characters))
    if share < 1:
        rows = rows.filter(pl.col("prompt_id").str.slice(0, 8) < f"{int(share * 16**8):08x}")
    return rows.collect().sort([name for name in _IDS if name in names])


def _share_of(rows: pl.LazyFrame, which: pl.Expr, examples: list[dict[str, Any]]) -> Measurement:
    part, whole = rows.select(which.sum().alias("part"), pl.len().alias("whole")).collect().row(0)
    return Measurement(_share(part, whole), whole, examples)


def _share(part: float, whole: int) -> float | None:
    return part / whole if whole else None


def _mean(values: pl.Series) -> float | None:
    return float(values.sum()) / len(values) if len(values) else None


def _count(rows: pl.LazyFrame) -> int:
    return rows.select(pl.len()).collect().item()


def _ids(rows: pl.DataFrame) -> list[str]:
    return [name for name in _IDS if name in rows.columns]


def _examples(rows: pl.LazyFrame, *more: str) -> list[dict[str, Any]]:
    """A few rows: their ids, their texts, and what else is named; the first by their ids."""
    names = rows.collect_schema().names()
    ids, texts = ([name for name in known if name in names] for known in (_IDS, _TEXTS))
    shown = rows.select(*ids, *more, *(pl.col(name).str.slice(0, EXCERPT + 1) for name in texts if name not in more))
    return _shown(shown.sort(ids))


def _with_completions(rows: pl.DataFrame, tables: Tables) -> list[dict[str, Any]]:
    """The first of the rows of pairs with the texts of their completions, where those are known."""
    few = rows.head(EXAMPLES)
    if few.is_empty() or "response_pairs" not in tables.others:
        return few.to_dicts()
    pairs = tables.others["response_pairs"].filter(pl.col("pair_id").is_in(few["pair_id"].implode()))
    texts = pairs.select("pair_id", pl.col("completion_0", "completion_1").str.slice(0, EXCERPT + 1)).collect()
    return _shown(few.join(texts, on="pair_id", how="left", maintain_order="left").lazy())


def _with_both_texts(pairs: pl.DataFrame, answers: pl.LazyFrame) -> list[dict[str, Any]]:
    """Pairs of answers to different prompts that are nearly the same, with their texts."""
    wanted = pl.concat([pairs["prompt_id"], pairs["other_prompt_id"]]).unique()
    text = answers.filter(pl.col("prompt_id").is_in(wanted.implode())).collect()
    other = text.rename(lambda name: f"other_{name}")
    ids, other_ids = ([name for name in one.columns if not name.endswith("answer")] for one in (text, other))
    both = pairs.join(text, on=ids, maintain_order="left").join(other, on=other_ids, maintain_order="left")
    named = ("prompt_id", "sample", "other_prompt_id", "other_sample", "similarity", "answer", "other_answer")
    return _shown(both.lazy().select(named))


def _shown(rows: pl.LazyFrame) -> list[dict[str, Any]]:
    """The first few rows, every text printable and cut."""
    return [
        {name: printable(value, EXCERPT) if isinstance(value, str) else value for name, value in row.items()}
        for row in rows.head(EXAMPLES).collect().iter_rows(named=True)
    ]
