"""What a run leaves: tables on standard output, figures as JSON, a picture."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt


@dataclass(frozen=True)
class Table:
    """Rows of text under a title; `note` says how it was measured."""

    title: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]
    note: str = ""

    def __str__(self) -> str:
        lines = [self.header, *self.rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(self.header))]

        def shown(line: tuple[str, ...]) -> str:
            first, *rest = zip(line, widths, strict=True)
            return "  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)]).rstrip()

        text = [self.title, shown(self.header), "  ".join("-" * width for width in widths), *map(shown, self.rows)]
        return "\n".join([*text, self.note] if self.note else text)


def number(value: float | None, digits: int = 1) -> str:
    """A figure for a table: with thousands' commas, a dash for none."""
    return "–" if value is None else f"{value:,.{digits}f}"


def times(value: float | None) -> str:
    """A ratio."""
    return "–" if value is None else f"{value:,.1f} ×" if value < 100 else f"{value:,.0f} ×"


def verdict(reached: bool) -> str:
    """Whether an aim was reached."""
    return "reached" if reached else "not reached"


def save(folder: Path, name: str, figures: dict[str, Any], sections: dict[str, Any]) -> list[Path]:
    """Write NAME.json and NAME.png; returns both."""
    folder.mkdir(parents=True, exist_ok=True)
    data, picture = folder / f"{name}.json", folder / f"{name}.png"
    data.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n")
    drawn = {key: section for key, section in sections.items() if hasattr(section, "plot")}
    columns = min(len(drawn), 2) or 1
    rows = -(-len(drawn) // columns) or 1
    figure, axes = plt.subplots(rows, columns, figsize=(8 * columns, 4.2 * rows), squeeze=False)
    for place in axes.flat[len(drawn) :]:
        place.axis("off")
    for place, (key, section) in zip(axes.flat, drawn.items(), strict=False):
        section.plot(place, figures["sections"][key])
    figure.tight_layout()
    figure.savefig(picture, dpi=110)
    plt.close(figure)
    return [data, picture]
