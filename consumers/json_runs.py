"""Many JSON messages decoded at once, where they are all plain and alike; `json_pairs` has the last word on all others.

Messages are joined to one JSON array. That all is well with its elements does not say yet that each message is one of
them: `{},{}` is two, and `{"a":[1` and `2]}` are one together. But if each message ends with a brace, no element has
anything nested in it, and there are as many elements as messages, then each message is just one: the line feed behind
the brace cannot stand in a string, so the brace closes an element, and each message begins and ends between two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat

import orjson

from stream_curate.sources import ColumnChoice
from stream_curate.sources.columns import candidates, kept_candidates

_SCALARS = {str, int, float, bool, type(None)}
_TEXTS = {str, type(None)}


@dataclass(frozen=True)
class Run:
    """The urls and the texts of messages, and which few of them are to be looked at all the same."""

    urls: list[str | None]
    texts: list[str | None]
    odd: Sequence[int]


class JsonRuns:
    r"""Decodes messages that have the same members in the same order, none of them to be kept.

    >>> runs = JsonRuns(ColumnChoice())
    >>> runs.pairs([b'{"url": "http://example.org/1.jpg", "alt": "a dog"}', b'{"url": "u", "alt": "a \\"cat\\""}'])
    Run(urls=['http://example.org/1.jpg', 'u'], texts=['a dog', 'a "cat"'], odd=[1])
    >>> runs.pairs([b'{"url": "u", "alt": "a"}', b'{"url": "u"}']) is None
    True
    """

    def __init__(self, choice: ColumnChoice) -> None:
        self._choice = choice
        self._known: tuple[tuple[str, ...], tuple[int | None, int | None] | None] = ((), None)  # of the last members

    def pairs(self, values: Sequence[bytes]) -> Run | None:
        """What is in them, just as `JsonPairs.pair` finds it; None where each is to be looked at by itself."""
        if not all(map(bytes.endswith, values, repeat(b"}"))):
            return None
        try:
            records = orjson.loads(b"[%b]" % b",\n".join(values))
        except orjson.JSONDecodeError:
            return None
        if len(records) != len(values) or set(map(type, records)) != {dict}:
            return None
        names = tuple(records[0])
        if set(map(tuple, records)) != {names}:
            return None
        places = self._places(names)
        if places is None:
            return None
        columns = list(zip(*map(dict.values, records), strict=True))
        kinds = [set(map(type, column)) for column in columns]
        if any(not kind <= _SCALARS or (str in kind and len(kind) > 1) for kind in kinds):
            return None
        if any(place is not None and not kinds[place] <= _TEXTS for place in places):
            return None
        url, text = places
        nothing: tuple[None, ...] = (None,) * len(values)
        # a name that stands twice leaves more quotes than these, as does one within a string
        n_quotes = 2 * (len(names) + sum(str in kind for kind in kinds))
        quotes = map(bytes.count, values, repeat(b'"'))
        return Run(
            urls=list(nothing if url is None else columns[url]),
            texts=list(nothing if text is None else columns[text]),
            odd=[k for k, found in enumerate(quotes) if found != n_quotes],
        )

    def _places(self, names: tuple[str, ...]) -> tuple[int | None, int | None] | None:
        """Which member is the url and which the text, if any; None where that is not clear, or others are kept."""
        if names != self._known[0]:
            url, text = candidates(names, self._choice)
            is_plain = len(url) <= 1 and len(text) <= 1 and not any(kept_candidates(names, self._choice))
            self._known = (names, (_only(url), _only(text)) if is_plain else None)
        return self._known[1]


def _only(found: Sequence[int]) -> int | None:
    return found[0] if found else None
