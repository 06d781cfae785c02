"""What a search found as one HTML file, pictures included, that can be mailed or opened anywhere.

Captions, file names and fields are other people's text: all of it is escaped, and the page allows no script.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from mwactl.files import atomic_file
from mwactl.search.found import Found, Result
from mwactl.search.thumbnail import thumbnail

_SIDE = 224
_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 15px/1.4 system-ui, sans-serif; margin: 2rem; color: #1a1a1a; background: #fff }}
h2 {{ font-size: 1.1rem; margin: 2rem 0 .6rem }}
ol {{ display: flex; flex-wrap: wrap; gap: 1rem; padding: 0; list-style: none }}
li {{ width: 224px; overflow-wrap: anywhere }}
.picture {{ height: 224px; display: flex; align-items: center; justify-content: center; background: #f4f5f7 }}
small {{ color: #6b6b6b }}
</style>
</head>
<body>
<h1>{title}</h1>
<p><small>{about}</small></p>
"""


def write_page(found: Sequence[Found], to: Path, *, title: str, about: str) -> int:
    """Write the page, which appears complete or not at all.

    Args:
        found: What the queries found.
        to: The HTML file.
        title: Its heading.
        about: A line below it: which model, how it was searched.

    Returns:
        How many hits' pictures were not there any more.

    Raises:
        ResourceError: The disk is full.
    """
    missing = 0
    with atomic_file(to) as file:
        file.write(_HEAD.format(title=escape(title), about=escape(about)).encode("utf-8"))
        for one in found:
            file.write(f"<h2>{escape(one.query)}</h2>\n<ol>\n".encode())
            for result in one.results:
                image = _picture(result)
                missing += image is None and result.item.text is None
                file.write("".join(_hit(result, image)).encode("utf-8"))
            file.write(b"</ol>\n")
        file.write(b"</body>\n</html>\n")
    return missing


def _picture(result: Result) -> str | None:
    """The hit's picture as an address that holds it."""
    picture = thumbnail(result.item, _SIDE)
    if picture is None:
        return None
    file = io.BytesIO()
    picture.save(file, format="JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def _hit(result: Result, image: str | None) -> Iterator[str]:
    item = result.item
    yield "<li>"
    if item.text is not None:
        yield f"<p>{escape(item.text)}</p>"
    elif image is None:
        yield '<div class="picture"><small>the picture is not there any more</small></div>'
    else:
        yield f'<div class="picture"><img src="{image}" alt="{escape(item.id)}"></div>'
    yield f"<div>{result.rank}. <b>{escape(item.id)}</b> <small>{result.score:.3f}</small></div>"
    for name, value in item.fields.items():
        yield f"<div><small>{escape(str(name))}: {escape(str(value))}</small></div>"
    yield "</li>\n"
