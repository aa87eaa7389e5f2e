"""The compared methods learn a toy batch by their recipe for hands: square images, no cameras, four identities."""

import pytest

from model.base import Progress
from tests.model.methods.toy import config, stages, trained

NAMES = (
    "aaformer",
    "abdnet",
    "autoreid",
    "cal",
    "cbdb_net",
    "cdnet",
    "cilp_fgdi",
    "clip_reident",
    "dcal",
    "gpa_net",
    "horeid",
    "isp",
    "laga_net",
    "mba_net",
    "mgn",
    "osnet",
    "pat",
    "pcb",
    "promptsg",
    "rga_net",
    "san",
    "transreid",
)
STEPS = 12
MORE_STEPS = {"cilp_fgdi": 40, "dcal": 40}
"""A rate of 0.000005 for CLIP's weights takes longer, and DCAL draws the partners of a step."""

SIDES = {"cbdb_net": 96, "mgn": 96, "pcb": 96}
"""Of the images, where 64 pixels do not give the stripes a row each."""


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_falls(name, tmp_path):
    """Identities are colours. SGD has a tenth of its rate, which is made for larger batches and many epochs."""
    side = str([SIDES.get(name, 64)] * 2)
    cfg = config(name, "INPUT.SIZE_TRAIN", side, "INPUT.SIZE_TEST", side, "INPUT.RESIZE", "[0, 0]")
    (stage,) = [stage for stage in stages(cfg) if stage.number == 2]
    _, step, optimizers, batch = trained(cfg, stage, tmp_path)
    if cfg.SOLVER.STAGE2.OPTIMIZER_NAME == "SGD":
        for group in optimizers[0].param_groups:
            group["lr"] /= 10
    losses = [float(step(batch, Progress(2, 50, i + 1)).loss.detach()) for i in range(MORE_STEPS.get(name, STEPS))]
    assert losses[-1] < 0.9 * losses[0], losses
