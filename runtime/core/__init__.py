"""Errors, files and facts about the machine."""
