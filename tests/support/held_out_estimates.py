"""Held-out estimates as the report gets them, of labels with a given precision."""

from pipeline.report.estimates import Estimates, RuleRow


def estimate(value):
    return {"value": value, "low": value - 0.02, "high": value + 0.02}


def estimates(precision, keep_rate=0.9):
    used = RuleRow("image", 0.1, "paper", estimate(precision), estimate(0.94), None, estimate(keep_rate), None, True)
    raw = used._replace(rule="raw", precision=estimate(0.937), same_keep=None)
    return Estimates(24, None, 20, {}, raw, used, None, estimate(0.01), [], [], [], None)
