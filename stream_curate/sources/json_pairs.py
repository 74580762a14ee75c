r"""One JSON object to one pair, or to the reason why it is none.

orjson is fast, and silent about some of what is refused here (duplicate keys, depth). So a record is taken from it
only when it is plain: an object of scalars whose line has exactly the quotes that its keys and strings account for.
A key that stands twice leaves more quotes than that. Every other line gets a second, slower look, which decides.

Its order of reasons is that of `Reason`, with one exception: nesting is found by a scan, and a line that is nested
deeper than `MAX_JSON_DEPTH` is `json_depth`, whatever else is wrong with it, because nothing parses it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from stream_curate.kernels import kernel
from stream_curate.reasons import Reason
from stream_curate.sources.columns import ColumnChoice, candidates, kept_candidates

MAX_JSON_DEPTH = 256
MAX_INTEGER_DIGITS = 4_300
_MAX_KNOWN_KEYS = 1_024
_MAX_KNOWN_CHARACTERS = 2_048

# from left to right: a surrogate pair, a lone surrogate (the group), any other escape
_ESCAPES = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})|\\.", re.DOTALL
)

JsonPair = tuple[str | None, str | None, tuple[str | None, ...], Reason | None]
"""url, text, the kept columns (in the order of `ColumnChoice.kept_names`), and the reason of a rejected record."""


class _Number(str):
    """A number as it was written."""


@dataclass(frozen=True)
class _Keys:
    """Where the records with one set of keys have what is needed; None where they have no such key."""

    url: str | None
    text: str | None
    kept: tuple[str | None, ...]
    keeps_any: bool
    ambiguous: bool


class JsonPairs:
    """Reads JSON objects as pairs; remembers which keys mean what.

    >>> pairs = JsonPairs(ColumnChoice())
    >>> pairs.pair(b'{"url": "http://example.org/1.jpg", "caption": "a dog", "uid": 7}')
    ('http://example.org/1.jpg', 'a dog', ('7',), None)
    >>> pairs.pair(b'{"url": "http://example.org/1.jpg", "url": "http://example.org/2.jpg"}')[3]
    <Reason.JSON_DUPLICATE_KEY: 'json_duplicate_key'>
    """

    def __init__(self, choice: ColumnChoice) -> None:
        self._choice = choice
        self._known_keys: dict[tuple[str, ...], _Keys] = {}
        self._nothing_kept: tuple[None, ...] = (None,) * len(choice.kept_names)
        self._odd: set[Reason] = set()  # what the decoder's hooks saw in the line at hand
        self._decoder = json.JSONDecoder(
            object_pairs_hook=self._see_object,
            parse_int=self._see_integer,
            parse_float=self._see_float,
            parse_constant=self._see_constant,
        )

    def pair(self, line: bytes) -> JsonPair:
        """The pair that one line holds. Nothing in a line raises an error.

        A kept number is the text it was written as, true and false are these words, and an object or array is its
        JSON text, written anew.
        """
        try:
            record = orjson.loads(line)
        except orjson.JSONDecodeError:
            return self._second_look(line)
        if type(record) is not dict:
            return self._second_look(line)
        n_strings = len(record)
        for value in record.values():
            if type(value) is str:
                n_strings += 1
            elif type(value) is dict or type(value) is list:
                return self._second_look(line)
        if line.count(b'"') != 2 * n_strings:
            return self._second_look(line)
        keys = self._keys(record)
        if keys.keeps_any:
            for key in keys.kept:
                # orjson does not say how a float, or -0, was written
                if key is not None and (type(record[key]) is float or (type(record[key]) is int and record[key] == 0)):
                    return self._second_look(line)
        return self._take(record, keys, None, line)

    def object_keys(self, line: bytes) -> list[str] | None:
        """The keys of a line that is a JSON object with nothing odd about it; None for any other line."""
        record, reason = self._parse(line)
        return list(record) if record is not None and reason is None else None

    def _second_look(self, line: bytes) -> JsonPair:
        record, reason = self._parse(line)
        if record is None:
            return None, None, self._nothing_kept, reason
        return self._take(record, self._keys(record), reason, line)

    def _take(self, record: dict[str, Any], keys: _Keys, reason: Reason | None, line: bytes) -> JsonPair:
        url = record[keys.url] if keys.url is not None else None
        text = record[keys.text] if keys.text is not None else None
        is_text = (url is None or type(url) is str) and (text is None or type(text) is str)
        if keys.ambiguous or not is_text:
            reason = Reason.BAD_SCHEMA
        if reason is not None:
            return None, None, self._nothing_kept, reason
        if not keys.keeps_any:
            return url, text, self._nothing_kept, None
        return url, text, tuple(None if key is None else _kept_text(record, key, line) for key in keys.kept), None

    def _keys(self, record: dict[str, Any]) -> _Keys:
        names = tuple(record)
        keys = self._known_keys.get(names)
        if keys is None:
            url, text = candidates(names, self._choice)
            kept = kept_candidates(names, self._choice)
            keys = _Keys(
                url=names[url[0]] if url else None,
                text=names[text[0]] if text else None,
                kept=tuple(names[found[0]] if len(found) == 1 else None for found in kept),
                keeps_any=any(len(found) == 1 for found in kept),
                ambiguous=len(url) > 1 or len(text) > 1,
            )
            if len(self._known_keys) >= _MAX_KNOWN_KEYS:  # the crawl may bring any number of them, of any length
                self._known_keys.clear()
            if sum(map(len, names)) <= _MAX_KNOWN_CHARACTERS:
                self._known_keys[names] = keys
        return keys

    def _parse(self, line: bytes) -> tuple[dict[str, Any] | None, Reason | None]:
        """The object in `line`, if there is one, and the first reason for which it is refused all the same."""
        if line.count(b"[") + line.count(b"{") > MAX_JSON_DEPTH and _depth(_as_array(line)) > MAX_JSON_DEPTH:
            return None, Reason.JSON_DEPTH
        self._odd.clear()
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError:
            text = line.decode("utf-8", "replace")
            self._odd.add(Reason.INVALID_UTF8)
        try:
            record = self._decoder.decode(text)
        except ValueError:
            return None, Reason.BAD_JSON
        if type(record) is not dict:
            return None, Reason.JSON_NOT_OBJECT
        if any(escape.group(1) for escape in _ESCAPES.finditer(text)):
            self._odd.add(Reason.JSON_SURROGATE)
        return record, next((reason for reason in Reason if reason in self._odd), None)

    def _see_object(self, members: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        record = dict(members)
        if len(record) != len(members):
            self._odd.add(Reason.JSON_DUPLICATE_KEY)
        return record

    def _see_integer(self, digits: str) -> _Number:
        if len(digits.removeprefix("-")) > MAX_INTEGER_DIGITS:
            self._odd.add(Reason.JSON_NUMBER)
        return _Number(digits)

    def _see_float(self, digits: str) -> _Number:
        if math.isinf(float(digits)):
            self._odd.add(Reason.JSON_NUMBER)
        return _Number(digits)

    def _see_constant(self, word: str) -> _Number:
        self._odd.add(Reason.JSON_NAN)
        return _Number(word)


def _kept_text(record: dict[str, Any], key: str, line: bytes) -> str | None:
    value = record[key]
    if value is None or type(value) is str:
        return value
    if type(value) is bool:
        return "true" if value else "false"
    if type(value) is dict or type(value) is list:
        # from the line again, because the numbers in `value` are text
        return json.dumps(json.loads(line)[key], ensure_ascii=False, separators=(",", ":"))
    return str(value)


def _as_array(line: bytes) -> np.ndarray:
    return np.frombuffer(line, np.uint8)


@kernel
def _depth(line: np.ndarray) -> int:
    """How many brackets and braces are open at once, those in strings not counted."""
    depth = 0
    deepest = 0
    in_string = False
    i = 0
    while i < len(line):
        byte = line[i]
        if in_string:
            if byte == 92:  # a backslash
                i += 1
            elif byte == 34:
                in_string = False
        elif byte == 34:
            in_string = True
        elif byte in (91, 123):
            depth += 1
            deepest = max(deepest, depth)
        elif byte in (93, 125):
            depth -= 1
        i += 1
    return deepest
