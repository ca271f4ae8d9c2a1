"""Networks that the training stage is compared with."""
