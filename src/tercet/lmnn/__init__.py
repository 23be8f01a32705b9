"""Large margin nearest neighbour classification (Weinberger, Blitzer and Saul 2005; Weinberger and Saul 2009).

    loops.py        compiled: pairs that may be impostors, what impostors cost, energies
    targets.py      the k nearest rows of the same class
    impostors.py    which pairs may be impostors: found exactly, kept while that is certain
    objective.py    value and gradient of the objective at a map
    solver.py       L-BFGS
    stochastic.py   batches of anchors, Adam
    start.py        the first map
    learning.py     one fit from beginning to end
    energy.py       what a row would cost in each class
    workers.py      threads

`tercet.LMNN` and `tercet.LMNNClassifier`, in estimators/lmnn.py, are what a user meets. The triplets of `kernels/` have
all of a class as positives and a threshold for each of them; here k target neighbours are fixed, nearly every
pair is too far to matter, and which are not hardly changes from one step to the next: hence loops of their own.
"""
