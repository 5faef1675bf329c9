"""What a bench makes of its rounds: ratios of pairs, targets, tables."""

from __future__ import annotations

from tests.bench.figures import Ratio, Report, builtins, text
from tests.bench.tables import table


def measured(*ratios: Ratio, at_most: dict[str, float] | None = None) -> Report:
    """Three rounds in which the computer got slower and slower."""
    report = Report(scenario="shared", title="Eight clients")
    figure = report.figure("throughput", "tok/s", *ratios, at_most=at_most)
    for ours, theirs in ((40.0, 10.0), (20.0, 5.0), (9.0, 3.0)):
        figure.add("ours", ours)
        figure.add("theirs", theirs)
    return report


def test_a_ratio_is_the_median_of_the_ratios_of_the_rounds():
    ratio = Ratio(of="ours", to="theirs")
    figure = measured(ratio).figures[0]
    assert figure.ratio(ratio) == 4.0
    assert figure.median("ours") == 20.0


def test_a_target_that_is_met_is_not_missed():
    report = measured(Ratio(of="ours", to="theirs", at_least=3.5), at_most={"ours": 20.0})
    assert report.missed == []
    assert "wanted ≥ 3.5: ok" in text(report)


def test_each_missed_target_is_named_with_its_value():
    report = measured(
        Ratio(of="ours", to="theirs", at_least=5),
        Ratio(of="ours", to="theirs", at_most=3),
        at_most={"ours": 19},
    )
    assert report.missed == [
        "Eight clients: throughput: ours has 20, wanted ≤ 19",
        "Eight clients: throughput: ours ÷ theirs is 4, wanted ≥ 5",
        "Eight clients: throughput: ours ÷ theirs is 4, wanted ≤ 3",
    ]


def test_targets_of_a_quick_run_are_not_judged():
    assert "wanted" not in text(measured(Ratio(of="ours", to="theirs", at_least=5)), judged=False)


def test_a_peer_that_was_left_out_makes_no_ratio_and_misses_nothing():
    report = measured(Ratio(of="ours", to="absent", at_least=100))
    assert report.missed == []
    assert "absent" not in text(report)
    assert "absent" not in table(builtins(report))


def test_the_table_of_a_report_has_medians_ratios_and_targets():
    lines = table(builtins(measured(Ratio(of="ours", to="theirs", at_least=3.5)))).splitlines()
    assert lines == [
        "**Eight clients**",
        "",
        "| median | ours | theirs | ratio |",
        "|---|--:|--:|---|",
        "| throughput, tok/s | 20 | 5 | ours ÷ theirs **4** (≥ 3.5) |",
    ]
