"""Why a record did not end, or did not stay, in the curated table.

One enumeration for every drop, eviction and rejection: its values are metric labels, columns of
the reports and what the tests assert.
"""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """The reason given with a record that is not (or no longer) in the curated table."""

    # dropped: a valid pair that the rule does not keep
    UNMATCHED = "unmatched"
    BALANCED = "balanced"
    DUPLICATE = "duplicate"

    # rejected: not a valid pair; the first that fits, in this order, is the one given
    NULL_VALUE = "null_value"
    TOO_LARGE = "too_large"
    BAD_ARROW = "bad_arrow"
    BAD_SCHEMA = "bad_schema"
    BAD_JSON = "bad_json"
    JSON_NOT_OBJECT = "json_not_object"
    JSON_NAN = "json_nan"
    JSON_DUPLICATE_KEY = "json_duplicate_key"
    JSON_SURROGATE = "json_surrogate"
    JSON_NUMBER = "json_number"
    JSON_DEPTH = "json_depth"
    BAD_ROW = "bad_row"
    INVALID_UTF8 = "invalid_utf8"
    URL_MISSING = "url_missing"
    URL_MALFORMED = "url_malformed"
    URL_SCHEME = "url_scheme"
    TEXT_TOO_LONG = "text_too_long"


DROPPED = (Reason.UNMATCHED, Reason.BALANCED, Reason.DUPLICATE)
REJECTED = tuple(reason for reason in Reason if reason not in DROPPED)
