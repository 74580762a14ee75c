"""Reasons are metric labels, table columns and what users filter by: they do not change by accident."""

from __future__ import annotations

from stream_curate.reasons import DROPPED, REJECTED, Reason


def test_every_reason_is_either_a_drop_or_a_rejection() -> None:
    assert set(DROPPED) | set(REJECTED) == set(Reason)
    assert not set(DROPPED) & set(REJECTED)
    assert len(DROPPED) + len(REJECTED) == len(Reason)


def test_the_names_and_the_order_in_which_the_first_that_fits_is_given() -> None:
    """The validator's and the sources' codes are places in this order."""
    assert [str(reason) for reason in DROPPED] == ["unmatched", "balanced", "duplicate"]
    assert [str(reason) for reason in REJECTED] == [
        "null_value",
        "too_large",
        "bad_arrow",
        "bad_schema",
        "bad_json",
        "json_not_object",
        "json_nan",
        "json_duplicate_key",
        "json_surrogate",
        "json_number",
        "json_depth",
        "bad_row",
        "invalid_utf8",
        "url_missing",
        "url_malformed",
        "url_scheme",
        "text_too_long",
    ]
