"""The page as one file, to keep with the data: the picture is in it, and it asks nobody for anything."""

from __future__ import annotations

import base64
import hashlib
import time
from pathlib import Path

import orjson

from stream_curate.draft import replacing
from stream_curate.errors import OutputError
from stream_curate.page.picture import TablePicture
from stream_curate.page.server import page_file


def write_report(root: Path, out: Path) -> str:
    """Write the report of the settled table in `root`; returns the table's digest.

    Raises:
        ConfigError: when there is no table, or it was never settled.
        OutputError: when the table cannot be read, or the report not be written.
    """
    picture = TablePicture(root)
    picture.refresh()
    digest = picture.digest()
    picture.read_settled_rows()
    values = picture.as_dict()
    report = _html(orjson.dumps({"picture": values, "digest": digest, "written_ms": int(time.time() * 1000)}))
    try:
        with replacing(out) as draft:
            draft.write_bytes(report)
    except OSError as error:
        raise OutputError(f"{out} cannot be written: {error.strerror or error}") from error
    return digest


def _html(picture: bytes) -> bytes:
    """The page's files and the picture in one. In JSON, < and its like can as well be written as escapes."""
    style, script = page_file("page.css").strip(), page_file("page.js").strip()
    for character in b"<>&":
        picture = picture.replace(bytes([character]), b"\\u%04x" % character)
    policy = (
        f"default-src 'none'; style-src '{_source_hash(style)}'; script-src '{_source_hash(script)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'"
    )
    icon = base64.b64encode(page_file("icon.svg")).decode()
    pieces = {
        b'<link rel="icon" href="icon.svg">': f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f'<link rel="icon" href="data:image/svg+xml;base64,{icon}">'.encode(),
        b'<link rel="stylesheet" href="page.css">': b"<style>%b</style>" % style,
        b'<script src="page.js" defer></script>': b"",
        b"</body>": b'<script type="application/json" id="kept">%b</script>\n<script>%b</script>\n</body>'
        % (picture, script),
    }
    html = page_file("page.html")
    for placeholder, content in pieces.items():
        before, _, after = html.partition(placeholder)
        html = before + content + after
    return html


def _source_hash(content: bytes) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(content).digest()).decode()}"
