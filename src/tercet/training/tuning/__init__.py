"""Tuning: settings tried by successive halving on validation data. `search.tune` is the way in.

Nothing is imported here, so that the command line reads `options` without waiting for torch.
"""
