"""What every matcher does: texts in, the entries that each of them matches out."""

from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Strings: TypeAlias = pa.StringArray | pa.LargeStringArray


@dataclass(frozen=True, eq=False)
class Matches:
    """The matched entry ids of a batch of texts.

    Text `i` matches `entry_ids[offsets[i] : offsets[i + 1]]`, ascending and without repeats.
    """

    offsets: npt.NDArray[np.int64]
    """int64[n_texts + 1], from 0 to n_matches, never falling."""

    entry_ids: npt.NDArray[np.int32]
    """int32[n_matches]; an entry id is the 0-based row of the entry in the metadata."""

    def __len__(self) -> int:
        """Return the number of texts."""
        return len(self.offsets) - 1


class Matcher(Protocol):
    """Finds, for each text, every entry with `f" {entry} " in spacing(text)`.

    What comes out for a text depends on that text and on the entries alone: not on the other texts of its batch, nor on
    what was matched before. Threads may call `match` on one matcher at the same time.
    """

    def match(self, texts: Strings) -> Matches:
        """Match a batch of texts.

        Args:
            texts: any number of them, of type string or large_string, without nulls; may be a slice.

        Raises:
            ValueError: `texts` is of another type, holds a null, or is not a well-formed Arrow array.
        """
        ...


def check_texts(texts: Strings) -> None:
    """Raise a ValueError in words unless `texts` is what `Matcher.match` takes."""
    _check_strings(texts, "texts")


def check_entries(entries: Strings) -> None:
    """Raise a ValueError in words unless `entries` is what a matcher is made from.

    It is an array of type string or large_string without nulls, whose entries are not empty and all different.
    """
    _check_strings(entries, "entries")
    first_rows = pc.index_in(entries, entries).to_numpy()
    for row in np.flatnonzero(first_rows != np.arange(len(entries)))[:1]:
        raise ValueError(f"the entry {entries[row]} stands in rows {first_rows[row]} and {row}: leave one of them out")
    for row in np.flatnonzero(pc.binary_length(entries).to_numpy() == 0)[:1]:
        raise ValueError(f"the entry in row {row} is empty: leave it out")


def _check_strings(strings: Strings, name: str) -> None:
    if not isinstance(strings, pa.StringArray | pa.LargeStringArray):
        found = getattr(strings, "type", type(strings).__name__)
        raise ValueError(f"{name} must be one Arrow array of type string or large_string, not {found}")
    if strings.null_count:
        raise ValueError(f"{name} holds {strings.null_count} nulls: put the empty string in their place")
