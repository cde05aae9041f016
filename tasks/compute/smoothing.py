"""Label smoothing: a share of each label is spread evenly over all classes."""

import torch

from tasks.encoding.padding import IGNORED


def smoothed_loss(loss: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor, share: float) -> torch.Tensor:
    """Return the cross-entropy with smoothed labels, of the one without: a mean over the labels that are not `IGNORED`.

    Args:
        loss: The cross-entropy.
        logits: (..., classes).
        labels: (...).
        share: What is spread, 0-1.

    Source: Szegedy et al. 2016, Rethinking the Inception architecture, section 7 (arXiv 1512.00567).
    """
    evenly = -logits[labels != IGNORED].float().log_softmax(-1).mean()
    return (1 - share) * loss + share * evenly
