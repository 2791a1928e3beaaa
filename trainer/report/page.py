"""Builds the page: one HTML file with its data, style and scripts, which requests nothing from a network.

Everything in the data comes from run files and is untrusted. It is embedded as JSON, which the browser does
not execute, and the script inserts it as text. The Content-Security-Policy allows only the two scripts of the
page, identified by their hashes, and no connection.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from trainer.errors import RunError

_MIME = {"svg": "svg+xml", "png": "png"}
_POLICY = (
    "default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; img-src data: blob:; "
    "base-uri 'none'; form-action 'none'"
)


def render_page(contents: Mapping[str, Any]) -> str:
    """Return the page of a report as HTML.

    Args:
        contents: the result of `report_contents`.

    Raises:
        RunError: plotly is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise RunError("the report needs plotly", fix="pip install plotly") from error
    library, script = get_plotlyjs(), read_resource("page.js")
    policy = _POLICY.format(scripts=" ".join(f"'{_hash(text)}'" for text in (library, script)))
    parts = {
        "POLICY": html.escape(policy, quote=True),
        "TITLE": html.escape(str(contents["title"])),
        "STYLE": read_resource("page.css"),
        "STATIC": _static(contents),
        "SAMPLES": _samples(contents["samples"]),
        "FIGURES": _figures(contents["figures"]),
        "DATA": _json({key: value for key, value in contents.items() if key not in ("figures", "samples")}),
        "LIBRARY": library,
        "SCRIPT": script,
    }
    page = read_resource("page.html")
    before, *rest = page.split("{{")
    pieces = [before]
    for piece in rest:
        name, _, after = piece.partition("}}")
        pieces += [parts[name], after]
    return "".join(pieces)


def read_resource(name: str) -> str:
    """Return a file of this package as text."""
    return (files("trainer.report") / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _json(contents: Mapping[str, Any]) -> str:
    """Return JSON that can stand in a script element: it contains no `<`."""
    text = json.dumps(contents, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _static(contents: Mapping[str, Any]) -> str:
    """Return the conclusions, notes and tables, which are readable without JavaScript."""
    table = contents["table"]
    blocks = [
        "<section id=conclusions><h2>Conclusions</h2>",
        _list(contents["verdicts"], "no differences were tested"),
        "</section>",
        "<section id=notes><h2>Notes and warnings</h2>",
        _list(contents["notes"], "none"),
        "</section>",
        "<section id=table><h2>Results by group</h2>",
        '<div class=scroll tabindex=0 role=group aria-label="Results by group">',
        _table(table["headings"], table["rows"], table["best"]),
        f"</div><p class=caption>{html.escape(contents['caption'])}</p></section>",
    ]
    if contents["tuning"]:
        blocks += ["<section id=tuning><h2>Sensitivity</h2>", _list(contents["tuning"], ""), "</section>"]
    return "".join(blocks)


def _samples(samples: Sequence[Mapping[str, str]]) -> str:
    """Return outputs of the models: images as in the run directories, and texts."""
    blocks = []
    for sample in samples:
        title = html.escape(sample["title"])
        if "text" in sample:
            content = f"<pre tabindex=0>{html.escape(sample['text'])}</pre>"
        else:
            content = f'<img alt="{title}" src="data:image/png;base64,{sample["image"]}">'
        blocks.append(f"<figure>{content}<figcaption>{title}</figcaption></figure>")
    if not blocks:
        return ""
    text = "Outputs of the trained models, of the first run of each group."
    return (
        f"<section id=samples><h2>Samples</h2><p>{text}</p><div class=grid>{''.join(blocks)}</div></section>"
    )


def _figures(figures: Sequence[Mapping[str, str]]) -> str:
    """Return the figures of `optlab compare` as images."""
    if not figures:
        return ""
    images = []
    for figure in figures:
        name, kind = html.escape(figure["name"]), figure["format"]
        source = f"data:image/{_MIME[kind]};base64,{figure['content']}"
        images.append(f'<figure><img alt="{name}" src="{source}"><figcaption>{name}</figcaption></figure>')
    summary = f"<summary><h2>Figures for print ({len(figures)})</h2></summary>"
    return f'<details>{summary}<div class="grid">{"".join(images)}</div></details>'


def _list(lines: Sequence[str], otherwise: str) -> str:
    """Return lines as a list; an indented line is a detail of the line above it."""
    if not lines:
        return f"<p>{html.escape(otherwise)}</p>"
    items: list[str] = []
    for line in lines:
        if line.startswith(" ") and items:
            items[-1] += f"<br><small>{html.escape(line.strip())}</small>"
        else:
            items.append(html.escape(line.strip()))
    return f"<ul>{''.join(f'<li>{item}</li>' for item in items)}</ul>"


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]], best: Sequence[Sequence[int]]) -> str:
    """Return a table; `best` has the rows of the best cells of each column."""
    head = "".join(f"<th scope=col>{html.escape(text)}</th>" for text in headings)
    body = "".join(
        "<tr>"
        + "".join(
            f"<td{' class=best' if number in column else ''}>{html.escape(text)}</td>"
            for text, column in zip(row, best, strict=True)
        )
        + "</tr>"
        for number, row in enumerate(rows)
    )
    return f"<table id=groups><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
