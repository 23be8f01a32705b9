"""The step: what takes a batch through encoder and loss to an update, in one process or several."""
