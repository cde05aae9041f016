"""The errors of the steps: what the user gave is told apart from what failed."""

import pytest

from tasks import errors


@pytest.mark.parametrize("error", [errors.ConfigError, errors.DataError, errors.ModelError])
def test_wrong_input_is_no_failed_run(error: type[Exception]) -> None:
    assert issubclass(error, errors.InputError)
    assert not issubclass(error, errors.RunError)


@pytest.mark.parametrize(
    "error",
    [errors.HubUnavailable, errors.ComputeFailed, errors.TrainingStopped, errors.TrainingDiverged, errors.TimeLimitExceeded],
)
def test_a_failed_run_is_no_wrong_input(error: type[Exception]) -> None:
    assert issubclass(error, errors.RunError)
    assert not issubclass(error, errors.InputError)
