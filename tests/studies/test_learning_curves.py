import numpy as np
import pytest

from rlbook.report import StepReport
from rlbook.studies.learning_curves import mean_returns


def reports(*rows: tuple[int, tuple[float, ...]]) -> list[StepReport]:
    return [StepReport(i + 1, samples, {}, returns) for i, (samples, returns) in enumerate(rows)]


def test_episodes_are_averaged_by_where_they_ended() -> None:
    run = reports((10, (1.0, 3.0)), (20, (5.0,)), (21, (7.0,)), (45, (9.0,)))
    # up to 20: (1 + 3 + 5) / 3 = 3; (20, 30]: 7; (30, 40]: none, so 7 is kept; 45 is beyond 40
    np.testing.assert_allclose(mean_returns(run, [20, 30, 40]), [3.0, 7.0, 7.0])


def test_positions_before_the_first_end_take_the_first_value() -> None:
    run = reports((10, ()), (20, (4.0,)), (30, (8.0,)))
    np.testing.assert_allclose(mean_returns(run, [10, 20, 30]), [4.0, 4.0, 8.0])


def test_a_run_without_an_end_is_refused() -> None:
    with pytest.raises(ValueError, match="no episode ended"):
        mean_returns(reports((10, ())), [10])
