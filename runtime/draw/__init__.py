"""Drawing: maps, overlays and the status strip."""
