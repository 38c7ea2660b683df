"""SemiEvol: evolve language models from a little labeled and a lot of unlabeled data (arXiv 2410.14745)."""

__version__ = "0.1.0"
