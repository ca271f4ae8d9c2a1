"""Bundles: the manifest and the artifacts it lists."""
