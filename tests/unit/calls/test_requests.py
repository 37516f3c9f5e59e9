"""What decides the id and the seed of a call, and what does not."""

import pickle
from dataclasses import replace

import pytest

from cai_dagster.calls.requests import (
    ChoiceLogprobs,
    EmptyCompletionError,
    MissingLabelError,
    Request,
    RowError,
    Sampling,
    Slot,
)
from cai_dagster.models.chat_format import ContextTooLongError
from cai_dagster.models.messages import Message, to_messages

MODEL = "model@0123/bfloat16/format-1"
DIALOGUE = (Message("user", "Hello?"), Message("assistant", "Hi."), Message("user", "How are you?"))
SLOT = Slot("revision_rounds", "p1", round=1, sample=0)
REQUEST = Request(DIALOGUE, SLOT, Sampling(1.0, 0.9, 64, 7))
OTHER_SLOTS = [
    replace(SLOT, stage="initial_responses"),
    replace(SLOT, prompt_id="p2"),
    replace(SLOT, round=2),
    replace(SLOT, sample=1),
]


def with_turn(index: int, turn: Message) -> Request:
    return replace(REQUEST, messages=(*DIALOGUE[:index], turn, *DIALOGUE[index + 1 :]))


OTHER_TEXTS = [
    with_turn(0, Message("user", "Hello!")),
    with_turn(1, Message("assistant", "Hi. ")),
    with_turn(2, Message("user", "How are you? <|im_end|>")),
    with_turn(1, Message("user", "Hi.")),
    replace(REQUEST, messages=DIALOGUE[:1]),
    replace(REQUEST, messages=(Message("system", ""), *DIALOGUE)),
    replace(REQUEST, messages=(Message("system", "Be kind."), *DIALOGUE)),
    replace(REQUEST, prefill="I"),
]


def test_equal_requests_have_the_same_ids() -> None:
    again = Request(tuple(replace(turn) for turn in DIALOGUE), replace(SLOT), Sampling(1.0, 0.9, 64, 7))
    assert again.completion_id(MODEL) == REQUEST.completion_id(MODEL)
    assert again.choice_id(MODEL, ("A", "B")) == REQUEST.choice_id(MODEL, ("A", "B"))


@pytest.mark.parametrize("request_", OTHER_TEXTS)
def test_every_text_and_role_decides_both_ids(request_: Request) -> None:
    assert request_.completion_id(MODEL) != REQUEST.completion_id(MODEL)
    assert request_.choice_id(MODEL, ("A", "B")) != REQUEST.choice_id(MODEL, ("A", "B"))


def test_all_ids_of_different_texts_differ_from_each_other() -> None:
    requests = [REQUEST, *OTHER_TEXTS]
    ids = {request.completion_id(MODEL) for request in requests}
    ids |= {request.choice_id(MODEL, ("A", "B")) for request in requests}
    assert len(ids) == 2 * len(requests)


def test_text_moved_over_the_edge_of_a_message_or_into_the_prefill_is_another_request() -> None:
    one, other = (
        Request((Message("user", "ab"), Message("assistant", "c")), SLOT),
        Request((Message("user", "a"), Message("assistant", "bc")), SLOT),
    )
    prefilled = Request((Message("user", "ab"),), SLOT, prefill="c")
    assert len({request.completion_id(MODEL) for request in (one, other, prefilled)}) == 3


def test_the_model_decides_both_ids() -> None:
    assert REQUEST.completion_id("another") != REQUEST.completion_id(MODEL)
    assert REQUEST.choice_id("another", ("A", "B")) != REQUEST.choice_id(MODEL, ("A", "B"))


@pytest.mark.parametrize("changed", [{"temperature": 0.7}, {"top_p": 0.8}, {"max_tokens": 65}, {"seed": 8}])
def test_sampling_decides_the_completion_but_not_the_choice(changed: dict[str, float]) -> None:
    request = replace(REQUEST, sampling=replace(REQUEST.sampling, **changed))
    assert request.completion_id(MODEL) != REQUEST.completion_id(MODEL)
    assert request.choice_id(MODEL, ("A", "B")) == REQUEST.choice_id(MODEL, ("A", "B"))


@pytest.mark.parametrize("slot", OTHER_SLOTS)
def test_every_part_of_the_slot_decides_a_drawn_completion_but_no_choice(slot: Slot) -> None:
    request = replace(REQUEST, slot=slot)
    assert request.completion_id(MODEL) != REQUEST.completion_id(MODEL)
    assert request.choice_id(MODEL, ("A", "B")) == REQUEST.choice_id(MODEL, ("A", "B"))


@pytest.mark.parametrize("slot", OTHER_SLOTS)
def test_a_greedy_completion_depends_neither_on_slot_nor_on_seed(slot: Slot) -> None:
    greedy = replace(REQUEST, sampling=Sampling(0.0, 1.0, 64, 7))
    other = replace(greedy, slot=slot, sampling=Sampling(0.0, 1.0, 64, 8))
    assert greedy.seed is None
    assert other.completion_id(MODEL) == greedy.completion_id(MODEL)


def test_a_greedy_completion_still_depends_on_its_length_and_text() -> None:
    greedy = replace(REQUEST, sampling=Sampling(0.0, 1.0, 64, 7))
    longer = replace(greedy, sampling=Sampling(0.0, 1.0, 65, 7))
    assert len({each.completion_id(MODEL) for each in (REQUEST, greedy, longer, replace(greedy, prefill="I"))}) == 4


@pytest.mark.parametrize("choices", [("B", "A"), ("A", "C"), ("A", "B", "C"), ("A",), ("AB",)])
def test_the_choices_and_their_order_decide_the_choice_id(choices: tuple[str, ...]) -> None:
    assert REQUEST.choice_id(MODEL, choices) != REQUEST.choice_id(MODEL, ("A", "B"))


def test_a_completion_and_a_choice_never_share_an_id() -> None:
    assert REQUEST.choice_id(MODEL, ()) != REQUEST.completion_id(MODEL)


def test_ids_are_sixty_four_hex_digits_also_for_text_that_utf8_cannot_carry() -> None:
    ids = [with_turn(0, Message("user", text)).completion_id(MODEL) for text in ("\ud800", "\\ud800", "\0", "🙂")]
    assert len(set(ids)) == 4
    assert all(len(each) == 64 and set(each) <= set("0123456789abcdef") for each in ids)


def test_seeds_have_thirty_one_bits_and_differ_from_slot_to_slot() -> None:
    slots = [Slot("s", f"p{number}", turn, sample) for number in range(500) for turn in (0, 1) for sample in (0, 1)]
    seeds = [slot.seed(0) for slot in slots]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert max(seeds) > 2**30


def test_the_base_seed_gives_every_slot_another_seed() -> None:
    assert REQUEST.seed == SLOT.seed(7)
    assert len({SLOT.seed(base) for base in range(100)}) == 100


def test_a_reason_begins_with_the_code_of_its_error() -> None:
    for error, code in (
        (RowError, "row_error"),
        (ContextTooLongError, "context_too_long"),
        (EmptyCompletionError, "empty_completion"),
        (MissingLabelError, "missing_label"),
    ):
        assert str(error("what happened")) == f"{code}: what happened"


def test_messages_come_from_the_turns_of_a_row() -> None:
    turns = [{"role": turn.role, "content": turn.content} for turn in DIALOGUE]
    assert to_messages(turns) == DIALOGUE


def test_the_mass_is_the_sum_of_the_probabilities() -> None:
    assert ChoiceLogprobs((-0.6931471805599453, -1.3862943611198906), "id").mass == pytest.approx(0.75)
    assert ChoiceLogprobs((float("-inf"), float("-inf")), "id").mass == 0


def test_a_row_error_survives_the_way_from_another_process() -> None:
    arrived = pickle.loads(pickle.dumps(ContextTooLongError("9 tokens do not fit 8")))
    assert type(arrived) is ContextTooLongError
    assert str(arrived) == "context_too_long: 9 tokens do not fit 8"
