"""Errors that a user can cause or fix."""

from __future__ import annotations


class FocalEdgeError(Exception):
    """Base of the errors that a user can fix; the message gives what was received, what was expected and what to do."""


class ConfigError(FocalEdgeError):
    """A configuration or argument that no run can honour."""


class FieldError(ConfigError):
    """A field of a dataclass that has a wrong value.

    Args:
        field: its name, or a path such as `outputs.logits`.
        received: its value.
        expected: what would fit, in words.
    """

    def __init__(self, field: str, received: object, expected: str) -> None:
        """Build the message; `runtime.core.schema` adds the path of the dataclass in its file."""
        super().__init__(f"received {field}={received!r}; expected {expected}")
        self.field, self.received, self.expected = field, received, expected


class DataError(FocalEdgeError):
    """A dataset, image or split file that cannot be used."""


class ArtifactError(FocalEdgeError):
    """A bundle, manifest, artifact or weight file that is missing, damaged or of the wrong kind."""


class SourceError(FocalEdgeError):
    """A camera, video or image source that gives no frames, or an output that accepts none."""


class TrainingError(FocalEdgeError):
    """A training run that cannot start, resume or continue."""
