"""A web view of a running demo: the image, its figures and its controls in a browser, from this machine alone."""

from runtime.web.view import View, serve_view

__all__ = ["View", "serve_view"]
