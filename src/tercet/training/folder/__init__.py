"""The run folder: atomic files, checkpoints, history, kept embeddings, what a failure leaves behind."""
