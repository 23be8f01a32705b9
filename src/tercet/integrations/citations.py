"""Where the losses come from, in BibTeX, for model cards."""

from __future__ import annotations

from tercet.losses import ClipLoss, ContrastiveLoss, InfoNCE, SupConLoss, TripletLoss
from tercet.losses.base import BatchLoss

HERMANS = """
@misc{hermans2017defense,
    title={In Defense of the Triplet Loss for Person Re-Identification},
    author={Alexander Hermans and Lucas Beyer and Bastian Leibe},
    year={2017},
    eprint={1703.07737},
    archivePrefix={arXiv}
}
"""
SCHROFF = """
@inproceedings{schroff2015facenet,
    title={FaceNet: A Unified Embedding for Face Recognition and Clustering},
    author={Florian Schroff and Dmitry Kalenichenko and James Philbin},
    booktitle={CVPR},
    year={2015}
}
"""
XUAN = """
@inproceedings{xuan2020improved,
    title={Improved Embeddings with Easy Positive Triplet Mining},
    author={Hong Xuan and Abby Stylianou and Robert Pless},
    booktitle={WACV},
    year={2020}
}
"""
WU = """
@inproceedings{wu2017sampling,
    title={Sampling Matters in Deep Embedding Learning},
    author={Chao-Yuan Wu and R. Manmatha and Alexander J. Smola and Philipp Kr{\\"a}henb{\\"u}hl},
    booktitle={ICCV},
    year={2017}
}
"""
HADSELL = """
@inproceedings{hadsell2006dimensionality,
    title={Dimensionality Reduction by Learning an Invariant Mapping},
    author={Raia Hadsell and Sumit Chopra and Yann LeCun},
    booktitle={CVPR},
    year={2006}
}
"""
OORD = """
@misc{oord2018representation,
    title={Representation Learning with Contrastive Predictive Coding},
    author={Aaron van den Oord and Yazhe Li and Oriol Vinyals},
    year={2018},
    eprint={1807.03748},
    archivePrefix={arXiv}
}
"""
KHOSLA = """
@inproceedings{khosla2020supervised,
    title={Supervised Contrastive Learning},
    author={Prannay Khosla and Piotr Teterwak and Chen Wang and Aaron Sarna and Yonglong Tian and Phillip Isola and
        Aaron Maschinot and Ce Liu and Dilip Krishnan},
    booktitle={NeurIPS},
    year={2020}
}
"""
RADFORD = """
@inproceedings{radford2021learning,
    title={Learning Transferable Visual Models From Natural Language Supervision},
    author={Alec Radford and Jong Wook Kim and Chris Hallacy and Aditya Ramesh and Gabriel Goh and Sandhini Agarwal and
        Girish Sastry and Amanda Askell and Pamela Mishkin and Jack Clark and Gretchen Krueger and Ilya Sutskever},
    booktitle={ICML},
    year={2021}
}
"""

OF_MINING = {
    "all": HERMANS,
    "hard": HERMANS,
    "semihard": SCHROFF,
    "easy-positive": XUAN,
    "easy-positive-semihard": XUAN,
    "distance-weighted": WU,
}
OF_LOSS = {ContrastiveLoss: HADSELL, InfoNCE: OORD, SupConLoss: KHOSLA, ClipLoss: RADFORD}


def citation_of(loss: BatchLoss) -> str:
    """The BibTeX entry of the paper that the loss is from.

    Raises:
        AttributeError: of a loss of the user's own, which sentence-transformers takes for one without.
    """
    if isinstance(loss, TripletLoss):
        return OF_MINING[loss.rule.mining]
    for kind, entry in OF_LOSS.items():
        if isinstance(loss, kind):
            return entry
    raise AttributeError(f"{type(loss).__name__} has no citation.")
