"""Index: embeddings of items, searchable, bound to the run that made them."""

from tercet.index.store import Found, Index

__all__ = ["Index", "Found"]
