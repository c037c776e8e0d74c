"""The report of an update."""

import dataclasses

import pytest

from rlbook.report import StepReport


def test_a_metric_is_read_by_its_name():
    report = StepReport(3, 120, {"kl": 0.5, "loss": 2.0}, (1.0,))
    assert report["kl"] == 0.5
    assert (report.update, report.samples, report.returns) == (3, 120, (1.0,))


def test_an_unknown_metric_names_those_there_are():
    with pytest.raises(KeyError, match="no metric 'KL': there are kl, loss"):
        StepReport(1, 1, {"kl": 0.5, "loss": 2.0})["KL"]


def test_a_report_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        StepReport(1, 1).update = 2
