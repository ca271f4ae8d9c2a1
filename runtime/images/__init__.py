"""Images: decoding, input specification, preprocessing."""
