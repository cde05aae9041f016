"""Tests of label smoothing, against torch's own."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from tasks.compute.smoothing import smoothed_loss


@pytest.mark.parametrize("share", [0.0, 0.1, 0.9])
def test_it_is_torchs_smoothed_cross_entropy(share: float) -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 5), torch.tensor([0, 4, -100, 2, 2, -100])
    expected = cross_entropy(logits, labels, label_smoothing=share)
    torch.testing.assert_close(smoothed_loss(cross_entropy(logits, labels), logits, labels, share), expected)


def test_half_precision_is_summed_in_full() -> None:
    torch.manual_seed(0)
    logits, labels = (8 * torch.randn(64, 500)).bfloat16(), torch.randint(0, 500, (64,))
    found = smoothed_loss(torch.tensor(0.0), logits, labels, 1.0)
    torch.testing.assert_close(found, -logits.float().log_softmax(-1).mean())
