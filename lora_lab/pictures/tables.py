"""``table``: results in rows and columns, as a table in the notebook and as the same numbers in plain text."""

import html

CELL = "padding: 0.25em 0.8em; text-align: {side}"


def table(rows, columns, caption="", form=".2f", lowest=None, highest=None):
    """A table of ``rows``, ``{label: [value, …]}``, under ``columns``: the labels' heading first, then one a value.

    ``form`` is how fractions are written; whole numbers get commas, texts stay as they are, and None leaves a gap.
    ``lowest`` or ``highest``, "row" or "column", marks the best fraction of each.

    >>> table({"LoRA": [1.14, 0.27], "full": [0.93, 0.52]}, ["at lr", "0.001", "0.01"], lowest="row")
    at lr  0.001   0.01
    LoRA    1.14  0.27*
    full    0.93  0.52*
    """
    rows = {str(label): list(values) for label, values in rows.items()}
    for label, values in rows.items():
        if len(values) != len(columns) - 1:
            raise ValueError(f"{label!r} has {len(values)} values for {len(columns) - 1} columns: {columns[1:]}")
    for option, along in (("lowest", lowest), ("highest", highest)):
        if along not in (None, "row", "column"):
            raise ValueError(f"{option}={along!r} is not 'row' or 'column'")
    cells = [[_text(value, form) for value in values] for values in rows.values()]
    right = [_is_numbers(values) for values in zip(*rows.values(), strict=True)]
    best = _best(rows, cells, min, lowest) | _best(rows, cells, max, highest)
    return Table(list(rows), [_text(column, "g") for column in columns], cells, caption, best, right)


class Table:
    """What ``table`` makes: HTML in a notebook, lines of text in a terminal."""

    def __init__(self, labels, columns, cells, caption, best, right):
        self.labels, self.columns, self.cells, self.caption = labels, columns, cells, caption
        self.best, self.right = best, right  # the places (row, column) that are marked; whether a column ends in line

    def __repr__(self):
        starred = {j for _, j in self.best}
        lines = [self.columns]
        for i, (label, row) in enumerate(zip(self.labels, self.cells, strict=True)):
            lines.append([label, *(t + " *"[(i, j) in self.best] * (j in starred) for j, t in enumerate(row))])
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        sides = [str.ljust, *(str.rjust if right else str.ljust for right in self.right)]
        text = [
            "  ".join(side(t, w) for side, t, w in zip(sides, line, widths, strict=True)).rstrip() for line in lines
        ]
        return "\n".join([self.caption] * bool(self.caption) + text)

    def _repr_mimebundle_(self, include=None, exclude=None):
        return {"text/html": self.html(), "text/plain": repr(self)}

    def html(self):
        """The table for a page: headings that a screen reader knows, the page's own colours, light or dark."""
        sides = ["left", *("right" if right else "left" for right in self.right)]
        heads = [_cell("th", column, side, "col") for column, side in zip(self.columns, sides, strict=True)]
        body = []
        for i, (label, row) in enumerate(zip(self.labels, self.cells, strict=True)):
            row = [_cell("td", text, sides[j + 1], best=(i, j) in self.best) for j, text in enumerate(row)]
            body.append(f"<tr>{_cell('th', label, 'left', 'row')}{''.join(row)}</tr>")
        caption = f'<caption style="{CELL.format(side="left")}">{html.escape(self.caption)}</caption>'
        inside = f"{caption * bool(self.caption)}<thead><tr>{''.join(heads)}</tr></thead><tbody>{''.join(body)}</tbody>"
        return f'<table style="font-size: 15px; font-variant-numeric: tabular-nums">{inside}</table>'


def _best(rows, cells, extreme, along):
    """The places (row, column) of the best fraction of each row or column, and of all that are written like it."""
    fractions = [
        (i, j, value) for i, row in enumerate(rows.values()) for j, value in enumerate(row) if isinstance(value, float)
    ]
    groups = {}
    for i, j, value in fractions if along else ():
        groups.setdefault(i if along == "row" else j, []).append((value, i, j))
    best = set()
    for group in groups.values():
        _, i, j = extreme(group)
        best |= {(k, m) for _, k, m in group if cells[k][m] == cells[i][j]}
    return best


def _is_numbers(values):
    """Whether a column is one of numbers, as "87 ± 1" is one, too."""
    return any(isinstance(value, (int, float)) for value in values) or all(str(value)[:1].isdigit() for value in values)


def _text(value, form):
    if value is None:
        return ""
    if isinstance(value, float):
        return format(value, form)
    return f"{value:,}" if isinstance(value, int) else str(value)


def _cell(kind, text, side, scope=None, best=False):
    text = f"* <b>{html.escape(text)}</b>" if best else html.escape(text)
    kind, scope = (kind, scope) if text.strip() else ("td", None)  # a heading that says nothing is none
    return f'<{kind}{f" scope={scope}" if scope else ""} style="{CELL.format(side=side)}">{text}</{kind}>'
