"""Selection of the fastest artifact, engine and number of threads on this machine."""
