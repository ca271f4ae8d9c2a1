"""Folders of images: classes and splits, an account of every file, near copies, the splits a run keeps."""
