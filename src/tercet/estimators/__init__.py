"""Scikit-learn's face: estimators for Pipeline, GridSearchCV and all that takes fit and transform.

What a user meets is in lmnn.py (LMNN as a transformer and as a classifier; it imports no torch) and embedder.py (any
encoder trained with any loss). Behind them, items.py says what X may be, folders.py keeps run folders as bytes and
writes them with a threshold, and runs.py makes a run of LMNN's map.
"""
