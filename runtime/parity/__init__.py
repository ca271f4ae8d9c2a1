"""The parity report: is one artifact as good as another, for every class, in every light, in what it looks at?

`python -m runtime.compare` runs it. Each module measures or shows one thing; none needs more than NumPy, OpenCV
and the interpreter.
"""
