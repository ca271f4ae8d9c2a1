"""The training loop: model, optimizer, augmentation, checkpoints, monitoring."""
