from collections.abc import Iterator
from pathlib import Path

import pytest

from cai_dagster.training.reward_modelling import TokenPair
from cai_dagster.training.supervised import TokenRow
from cai_dagster.training.token_files import write_token_rows
from tests.token_rows import rows_of

PAIR = TokenPair([1, 2, 2**31 - 1], [3], 0.75, 10, 5, margin=0.5, loss_weight=2.0, prompt_id="ab")


@pytest.mark.parametrize("count", [0, 1, 999, 1_000, 2_001])
def test_rows_are_read_as_they_were_written_and_counted(tmp_path: Path, count: int) -> None:
    rows = [TokenRow.of([number, 7], 1) for number in range(count)]
    written = write_token_rows(TokenRow, rows, tmp_path / "new" / "rows.arrow")
    assert written.count == count
    assert rows_of(written) == [{"input_ids": [number, 7], "completion_mask": [0, 1]} for number in range(count)]


def test_every_field_is_a_column(tmp_path: Path) -> None:
    written = write_token_rows(TokenPair, [PAIR], tmp_path / "pairs.arrow")
    assert rows_of(written) == [vars(PAIR)]


def test_rows_are_written_while_they_are_made(tmp_path: Path) -> None:
    """More of them than a batch are never held."""
    alive = 0

    class Counted(TokenRow):
        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def rows() -> Iterator[TokenRow]:
        nonlocal alive
        for number in range(5_000):
            alive += 1
            assert alive <= 2_001
            yield Counted([number], [1])

    assert write_token_rows(TokenRow, rows(), tmp_path / "rows.arrow").count == 5_000
