"""Templates of the files that the device bundle adds."""
