"""Data-parallel training over devices and hosts."""
