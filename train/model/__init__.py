"""The network: configuration, presets, layers, weights and cost."""
