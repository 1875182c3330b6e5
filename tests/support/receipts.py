"""Receipts of stages that did not run: every field that a receipt must have, and those that a test is about."""

from typing import get_args, get_origin, get_type_hints

from pipeline.receipt import SCHEMAS, Receipt


def facts_of(stage, **facts):
    """What a stage returns: the facts that are given, and the others that its receipt must have, empty or zero."""
    kinds = get_type_hints(SCHEMAS[stage])
    return {name: _empty(kind) for name, kind in kinds.items() if name not in Receipt.__annotations__} | facts


def _empty(kind):
    return None if type(None) in get_args(kind) else (get_origin(kind) or kind)()
