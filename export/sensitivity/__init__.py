"""What int8 costs, product by product, and which products to leave in float."""
