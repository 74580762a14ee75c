"""Which columns of an input are the url, the text, and those to carry along."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stream_curate.errors import UsageError
from stream_curate.pairs import pair_schema
from stream_curate.printable import printable
from stream_curate.sources.source import bad_input

URL_ALIASES = ("url", "image_url", "image_urls")
TEXT_ALIASES = ("text", "caption", "captions", "alt")
UID = "uid"
_MAX_SHOWN_COLUMNS = 100


@dataclass(frozen=True)
class ColumnChoice:
    """What the user said about columns; everything left out is found by its usual names, in any case.

    Attributes:
        url, text: the names of these columns; first looked for as given, then in any case.
        headerless: the names of the fields of tsv and csv files that have no header line.
        keep: columns to carry along under these names.

    Raises:
        UsageError: for a kept name that the table uses itself, or that stands twice.
    """

    url: str | None = None
    text: str | None = None
    headerless: tuple[str, ...] | None = None
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        lowered = [name.lower() for name in self.keep]
        taken = sorted(set(lowered) & set(pair_schema().names))
        if taken:
            raise UsageError(f"--keep-columns: {', '.join(taken)}: the table has a column of this name; leave it out")
        twice = sorted({name for name in lowered if lowered.count(name) > 1})
        if twice:
            raise UsageError(f"--keep-columns: {printable(', '.join(twice))} stands twice (case does not count)")
        if self.headerless is not None and not self.headerless:
            raise UsageError("--columns: give the names of the fields, as in --columns url,text")

    @property
    def kept_names(self) -> tuple[str, ...]:
        """`uid`, then the columns asked for."""
        return (UID, *(name for name in self.keep if name.lower() != UID))

    @property
    def needs_uid(self) -> bool:
        """Whether `uid` was asked for, so that a file without it is refused."""
        return any(name.lower() == UID for name in self.keep)


@dataclass(frozen=True)
class Columns:
    """Where an input has what is needed, as indices into its columns; None where it has no such column."""

    url: int
    text: int
    kept: tuple[int | None, ...]


def candidates(found: Sequence[str], choice: ColumnChoice) -> tuple[list[int], list[int]]:
    """The indices of the columns that could be the url, and of those that could be the text.

    A column that is named as one of the two is not taken for the other.

    >>> candidates(["URL", "alt", "caption"], ColumnChoice(text="alt"))
    ([0], [1])
    """
    url = _named(found, choice.url)
    text = _named(found, choice.text)
    if choice.url is None:
        url = [i for i, name in enumerate(found) if name.lower() in URL_ALIASES and i not in text]
    if choice.text is None:
        text = [
            i
            for i, name in enumerate(found)
            if name.lower() in TEXT_ALIASES and not (choice.url is not None and i in url)
        ]
    return url, text


def kept_candidates(found: Sequence[str], choice: ColumnChoice) -> list[list[int]]:
    """For each of `choice.kept_names` the indices of the columns that could be it."""
    return [_named(found, name) for name in choice.kept_names]


def resolve(found: Sequence[str], choice: ColumnChoice, name: str, advice: str = "") -> Columns:
    """The columns of the input called `name`, among those `found`.

    Raises:
        InputError: when url, text or a column to keep is missing or could be several; it names what was found,
            what was looked for, and the flag that decides. `advice` is added to it.
    """
    url, text = candidates(found, choice)
    url_index = _only(url, found, name=name, role="url", explicit=choice.url, aliases=URL_ALIASES, advice=advice)
    text_index = _only(text, found, name=name, role="text", explicit=choice.text, aliases=TEXT_ALIASES, advice=advice)
    kept: list[int | None] = []
    for kept_name, indices in zip(choice.kept_names, kept_candidates(found, choice), strict=True):
        needed = kept_name != UID or choice.needs_uid
        if needed and len(indices) != 1:
            what = "no column" if not indices else f"{len(indices)} columns"
            raise bad_input(
                name,
                f"{what} called {kept_name}, which --keep-columns asks for; columns found: {_listed(found)}",
                "Name a column that every input has, or leave it out.",
            )
        kept.append(indices[0] if len(indices) == 1 else None)
    return Columns(url_index, text_index, tuple(kept))


def _named(found: Sequence[str], wanted: str | None) -> list[int]:
    if wanted is None:
        return []
    exact = [i for i, name in enumerate(found) if name == wanted]
    return exact or [i for i, name in enumerate(found) if name.lower() == wanted.lower()]


def _only(
    indices: list[int],
    found: Sequence[str],
    *,
    name: str,
    role: str,
    explicit: str | None,
    aliases: Sequence[str],
    advice: str,
) -> int:
    if len(indices) == 1:
        return indices[0]
    looked_for = explicit if explicit is not None else f"{', '.join(aliases)} (in any case)"
    if indices:
        what = f"more than one {role} column: {_listed([found[i] for i in indices])}"
    else:
        what = f"no {role} column"
    raise bad_input(
        name,
        f"{what}; columns found: {_listed(found)}; looked for: {looked_for}",
        f"Say which one it is with --{role}-column. {advice}",
    )


def _listed(names: Sequence[str]) -> str:
    if not names:
        return "none"
    more = f" and {len(names) - _MAX_SHOWN_COLUMNS} more" if len(names) > _MAX_SHOWN_COLUMNS else ""
    return ", ".join(printable(name, 100) or "(no name)" for name in names[:_MAX_SHOWN_COLUMNS]) + more
