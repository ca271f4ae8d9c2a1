"""The device side: open a bundle, classify frames, draw gates, compare with float.

Imports nothing but the standard library, NumPy, OpenCV and (lazily) one interpreter.
"""
