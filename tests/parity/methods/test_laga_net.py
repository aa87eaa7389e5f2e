"""LAGA-Net against MBA-Net's code in its configuration (nathanlem1/MBA-Net@2c6349a); arrays: laga_net/README.md.

No code of LAGA-Net is known. Its triplet loss is ours, and nothing here checks it against the paper.
"""

import torch

from loss import TripletLoss
from model.methods.laga_net import LAGANet
from tests.parity.methods.kit import Golden
from tests.parity.methods.mba_family import register

golden = Golden("laga_net")


def network(backbone, identities, **options):
    assert golden.meta["part_v"] == 1 and golden.meta["use_attention"]
    return LAGANet(backbone, identities, stripes=golden.meta["part_h"], **options)


network.rate = LAGANet.rate
trained = register(golden, network)
test_array = golden.test()


def test_the_triplet_loss_is_the_sum_over_three_vectors():
    step, labels = trained(), golden.input("labels_train")
    triplets = [TripletLoss(0.3)(step.outputs[head], labels) for head in ("g", "s", "c")]
    torch.testing.assert_close(step.terms["triplet"], sum(triplets))
