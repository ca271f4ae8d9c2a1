"""Errors that a user can cause or fix."""

from __future__ import annotations


class FocalEdgeError(Exception):
    """Base of every error that a user can fix; the message says what was received, what was expected and what to do."""


class ConfigError(FocalEdgeError):
    """A configuration or argument that no run can honour."""


class DataError(FocalEdgeError):
    """A data set, image or split file that cannot be used."""


class ArtifactError(FocalEdgeError):
    """A bundle, manifest, artifact or weight file that is missing, damaged or of another kind."""


class SourceError(FocalEdgeError):
    """A camera, video or image source that gives no frames, or an output that takes none."""


class TrainingError(FocalEdgeError):
    """A training run that cannot start, resume or go on."""
