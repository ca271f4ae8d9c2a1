"""Initial weights from published checkpoints, other runs and bundles."""
