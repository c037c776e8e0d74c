"""Recorded runs of GPT-2's size, in words and as curves."""

import pytest

from rlbook.show.gpt2_runs import describe_gpt2_run, plot_gpt2_runs
from rlbook.studies.recorded import Run


def run_of(method: str, accuracy: list[float], own: float = 0.0) -> Run:
    measures = {
        "accuracy": {method: [accuracy]},
        "update": {method: [[0, 20, 40]]},
        "seconds": {method: [[0.0, 30.0, 61.4]]},
        "kl": {method: [2.345]},
        "start": {
            "pretrained, greedy": [0.99], "imitator, sampled": [0.44], "imitator, greedy": [0.36],
            "steps": [700], "seconds": [100.0], "own weights": [own],
        },
        "gigabytes": {"estimated": [5.678], "measured": [6.5]},
        "facts": {
            "weights": [124_439_808], "n_layer": [12], "n_embd": [768], "micro_tokens": [16_384]
        },
    }  # fmt: skip
    provenance = {"device": "A card", "date": "2027-01-02", "versions": {}, "command": ""}
    return Run("gpt2-x", "", {}, (0,), measures, provenance, "")


def test_a_run_in_words():
    text = describe_gpt2_run(run_of("GRPO", [0.4, 0.9, 0.955]))
    assert text.splitlines() == [
        "GRPO on A card, 2027-01-02",
        "model   12 blocks, 768 wide, 124.4 million weights, from random weights",
        "start   clean chains 0.99 after 700 steps; then the imitator 0.44 sampled, 0.36 greedy",
        "end     0.95 (from 0.40) after 40 updates in 61 s, 2.3 nats per response from the start",
        "memory  6.50 GB at most, 5.68 GB estimated",
    ]
    unknown = run_of("GRPO", [0.4, 0.9, 0.955])
    del unknown.measures["gigabytes"]["measured"]
    assert describe_gpt2_run(unknown).splitlines()[-1] == "memory  5.68 GB estimated"
    assert "from its own weights" in describe_gpt2_run(run_of("PPO", [0.4, 0.5, 0.6], own=1.0))


def test_runs_as_curves_over_the_clock():
    runs = {"PPO": run_of("PPO", [0.4, 0.5, 0.6]), "DPO": run_of("DPO", [0.4, 0.45, 0.5])}
    ax = plot_gpt2_runs(runs).axes[0]
    lines = {line.get_label(): line for line in ax.lines}
    assert list(lines) == ["PPO", "DPO"]
    assert lines["DPO"].get_ydata().tolist() == pytest.approx([0.4, 0.45, 0.5])
    assert lines["PPO"].get_xdata().tolist() == pytest.approx([0.0, 30.0, 61.4])
    assert ax.get_ylim()[0] == 0.0
