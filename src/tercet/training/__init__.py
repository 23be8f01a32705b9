"""Training: configuration, the loop, checkpoints, and the run folder that comes of it.

Nothing is imported here, so that the configuration can be read, and help printed, without waiting for torch.
"""
