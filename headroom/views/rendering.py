"""Terminal text: the console that it goes to, and tables without contents. It knows no job and no report.

The tables are the same on a terminal, in a pipe and in a file; colour comes and goes with the console.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from headroom.views.figures import printable

PIPE_WIDTH = 1000  # of a console that is no terminal: nothing is wrapped there


def console_for(stream: Any) -> Console:
    """A console that does not guess at highlights."""
    console = Console(file=stream, highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    return console


def show(console: Console, *views: RenderableType) -> None:
    """Print; in a pipe or file without the spaces that fill up a line."""
    if console.is_terminal:
        console.print(*views, sep="\n")
        return
    with console.capture() as captured:
        console.print(*views, sep="\n")
    console.file.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


def figures_table() -> Table:
    """Columns of figures under bold headings."""
    return Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")


def pairs() -> Table:
    """Names and values, a pair a line, without headings."""
    return Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))


def records_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A plain list of short fields."""
    table = figures_table()
    for name in columns:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(value)) for value in row))
    return table
