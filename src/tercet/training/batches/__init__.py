"""Batches: which items come next, what is made of them, and what says which are alike."""
