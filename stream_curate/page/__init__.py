"""The page: what a curated table holds and how it grows, to look at while the stream runs or to keep as one file."""

from stream_curate.page.live import LivePicture
from stream_curate.page.report import write_report
from stream_curate.page.server import PageServer, Request, Response, add_page, serve_page

__all__ = ["LivePicture", "PageServer", "Request", "Response", "add_page", "serve_page", "write_report"]
