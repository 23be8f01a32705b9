"""What a model is worth on records, and what people are shown of it. `assessment.assess` is the way in.

    assessment.py   records and embeddings -> the evaluation that their form asks for, with what the report shows
    examination.py  a run on records: the whole embeddings, fewer bytes, and the raw inputs, each kept in the run
    wanted.py       what is asked for beside data, by the user or the custom of a known data set
    searched.py     in what gallery is searched, what is left out, how far down
    baseline.py     the raw inputs as vectors
    neighbours.py   queries that go wrong, labels that may be
    map.py          the embeddings in a plane; shown.py: what is seen of an item
    dimensions.py   the figures of shorter embeddings
    selection.py    which metric chooses the best checkpoint
    calibration.py  the threshold and the probability of same, kept in the run; targets.py: what it is chosen for
    verdicts.py     same or different, of given pairs
    compared.py     runs on the same items, told from chance

Nothing is imported here, so that the command line reads `targets` without waiting for torch.
"""
