"""A finished table as table.json, table.md, table.html and text."""

import html
import json
from collections.abc import Sequence
from pathlib import Path

from saot.data import write_atomic
from saot.report import png_uri
from saot.tables.results import Cell, ResultRow, TableResult


def write_table(out: Path, result: TableResult) -> None:
    """Write table.json, table.md, table.html and the figures, each whole or not at all.

    Raises:
        ValueError: If `out` holds another table.
        OSError: If a file cannot be written.
    """
    check_folder(out, result.name, result.request.get("set") or ())
    for name, data in result.figures.items():
        write_atomic(out / name, data)
    write_atomic(out / "table.md", markdown(result).encode())
    write_atomic(out / "table.html", page(result).encode())
    write_atomic(out / "table.json", (json.dumps(result.to_dict(), indent=1, ensure_ascii=False) + "\n").encode())


def check_folder(out: Path, name: str, words: Sequence[str] = ()) -> None:
    """Refuse a folder that holds another table, or the same with other settings by `--set`.

    Raises:
        ValueError: If it does, or is a file.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"expected a folder for the table; {out} is a file: choose another --out")
    path = out / "table.json"
    if path.exists():
        found = json.loads(path.read_text())
        kept, before = found.get("table"), (found.get("request") or {}).get("set") or []
        if kept != name:
            raise ValueError(f"expected an empty folder or one of {name}; {out} holds {kept}: choose another --out")
        if before != list(words):
            asked, was = (" ".join(f"--set {word}" for word in some) or "no --set" for some in (words, before))
            raise ValueError(f"expected a folder of {name} with {asked}; {out} holds {was}: choose another --out")


def _heads(result: TableResult) -> list[str]:
    return ["", *(title for _, title in result.columns)]


def _cell(cell: Cell, row: ResultRow) -> str:
    if row.quoted:
        return f"quoted: {cell.paper_words()}"
    ours = cell.words()
    if cell.difference is not None:
        d = cell.difference
        ours += f" [Δ {d.difference:+.1f}, {d.low:+.1f} to {d.high:+.1f}]"
    return ours if cell.paper is None else f"{ours} (paper {cell.paper_words()})"


def text_table(result: TableResult) -> str:
    """The table as aligned text: ours, then the paper's in brackets."""
    lines = [_heads(result)]
    sections: dict[int, str] = {}
    section = ""
    for row in result.rows:
        if row.section != section:
            sections[len(lines)], section = row.section, row.section
        lines.append([row.label, *(_cell(row.cells[key], row) for key, _ in result.columns)])
    widths = [max(len(line[place]) for line in lines) for place in range(len(lines[0]))]
    printed = [f"{result.title} ({result.location})"]
    for number, line in enumerate(lines):
        if sections.get(number):
            printed.append(f"-- {sections[number]}")
        printed.append("  ".join(part.ljust(width) for part, width in zip(line, widths, strict=True)).rstrip())
    return "\n".join(printed)


def markdown(result: TableResult) -> str:
    """The table as Markdown, with the differences of setting and the notes below it."""

    def line(parts: Sequence[str]) -> str:
        return "| " + " | ".join(part.replace("|", "\\|") for part in parts) + " |"

    heads = _heads(result)
    lines = [f"# {result.title}", "", f"{result.location}. {explanation(result)}", ""]
    lines += [line(heads), line(["---"] + ["---:"] * (len(heads) - 1))]
    section = ""
    for row in result.rows:
        if row.section and row.section != section:
            lines.append(line([f"*{row.section}*"] + [""] * (len(heads) - 1)))
        section = row.section
        lines.append(line([row.label, *(_cell(row.cells[key], row) for key, _ in result.columns)]))
    lines += [""] + [f"![{name}]({name})" for name in result.figures] + [""] * bool(result.figures)
    lines += ["## Settings that are not the paper's", "", line(["setting", "paper", "here", "why"]), line(["---"] * 4)]
    lines += [line([d.field, d.paper, d.used, d.reason]) for d in result.differences]
    lines += ["", "## Notes", ""] + [f"- {note}" for note in result.notes]
    return "\n".join(lines) + "\n"


def explanation(result: TableResult) -> str:
    """How to read the cells, in a sentence or two."""
    seeds = len(result.request.get("seeds", ()))
    told = f"Ours over {result.images} {result.counted} and {seeds} seed{'s' * (seeds != 1)}, the paper's in brackets."
    if not result.images:
        told = "Ours, with the paper's in brackets."
    if seeds > 1:
        told += " ± is the sample standard deviation over seeds."
    if any(cell.difference for row in result.rows for cell in row.cells.values()):
        told += (
            f" Δ is {result.measure} minus that of {result.reference}, points, with the 95 % interval of a paired "
            f"bootstrap over {'pictures' if result.counted == 'evaluation pictures' else result.counted}."
        )
    return told


_STYLE = """
:root { color-scheme: light dark; --line: #8886; --soft: #777; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1180px; margin: 24px auto; padding: 0 18px; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 10px; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }
th:first-child, td:first-child { text-align: left; }
td small { display: block; color: var(--soft); white-space: nowrap; }
tr.section th { color: var(--soft); padding-top: 14px; } tr.quoted td { font-style: italic; color: var(--soft); }
.soft { color: var(--soft); } table.plain td { text-align: left; } img, svg { max-width: 100%; height: auto; }
"""


def page(result: TableResult) -> str:
    """The table as one HTML file that needs nothing beside it."""
    safe = html.escape
    heads = "".join(f"<th>{safe(title)}</th>" for title in _heads(result))
    body, section = [], ""
    for row in result.rows:
        if row.section and row.section != section:
            body.append(f'<tr class="section"><th colspan="{len(result.columns) + 1}">{safe(row.section)}</th></tr>')
        section = row.section
        cells = "".join(_html_cell(row.cells[key], row) for key, _ in result.columns)
        body.append(f"<tr{' class=quoted' if row.quoted else ''}><td>{safe(row.label)}</td>{cells}</tr>")
    settings = "".join(
        f"<tr><td>{safe(d.field)}</td><td>{safe(d.paper)}</td><td>{safe(d.used)}</td><td>{safe(d.reason)}</td></tr>"
        for d in result.differences
    )
    notes = "".join(f"<li>{safe(note)}</li>" for note in result.notes)
    figures = "".join(_html_figure(name, data) for name, data in result.figures.items())
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{safe(result.title)}</title>'
        f"<style>{_STYLE}</style></head><body>\n<h1>{safe(result.title)}</h1>\n"
        f'<p class="soft">{safe(result.location)}. {safe(explanation(result))}</p>\n'
        f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{"".join(body)}</tbody></table></div>\n'
        f"{figures}\n<h2>Notes</h2><ul>{notes}</ul>\n<h2>Settings that are not the paper's</h2>\n"
        '<table class="plain"><thead><tr><th>setting</th><th>paper</th><th>here</th><th>why</th></tr></thead>'
        f"<tbody>{settings}</tbody></table>\n</body></html>\n"
    )


def _html_cell(cell: Cell, row: ResultRow) -> str:
    lines = []
    if not row.quoted:
        lines.append(f"<b>{html.escape(cell.words())}</b>")
        if cell.difference is not None:
            d = cell.difference
            lines.append(f"<small>Δ {d.difference:+.1f} [{d.low:+.1f}, {d.high:+.1f}]</small>")
    if cell.paper is not None:
        lines.append(f"<small>{'quoted' if row.quoted else 'paper'} {html.escape(cell.paper_words())}</small>")
    return f"<td>{''.join(lines)}</td>"


def _html_figure(name: str, data: bytes) -> str:
    if name.endswith(".svg"):
        return data.decode()
    return f'<p><img src="{png_uri(data)}" alt="{html.escape(name)}"></p>'
