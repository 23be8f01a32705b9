"""The benchmark protocol: methods compared on classes that none of them has seen. `protocol.benchmark` is the way in.

Nothing is imported here, so that the command line reads `options` without waiting for torch.
"""
