"""The web view: image, figures and controls of a running demo in a browser."""

from runtime.web.view import View, serve_view

__all__ = ["View", "serve_view"]
