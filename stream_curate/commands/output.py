"""How commands show what they found."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

# Text from the crawl is shown as it is: brackets and colons in it mean nothing here
console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)


def print_json(values: Any) -> None:
    """One JSON document on standard output, in which what is not printable is escaped."""
    text = json.dumps(values, indent=2, ensure_ascii=False)
    print("".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text))


def number_table(title: str, rows: Iterable[tuple[str, int | str, str]]) -> Table:
    """A table of names, right-aligned numbers and what they mean."""
    table = Table(
        title=Text(title), title_justify="left", title_style="bold", show_header=False, box=None, padding=(0, 2, 0, 0)
    )
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(style="dim", overflow="fold")
    for name, value, meaning in rows:
        table.add_row(Text(name), Text(f"{value:,}" if isinstance(value, int) else value), Text(meaning))
    return table


def show_numbers(title: str, rows: Iterable[tuple[str, int | str, str]]) -> None:
    """Print a `number_table`, set off by an empty line."""
    console.print()
    console.print(number_table(title, rows))
