"""The training stage: data sets, the FocalNet and its training run."""
