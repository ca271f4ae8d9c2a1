"""Sensitivity of a network to int8, product by product, and the choice of products to leave in float."""
