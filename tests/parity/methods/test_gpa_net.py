"""GPA-Net against MBA-Net's code with parts and without attention (nathanlem1/MBA-Net@2c6349a); see gpa_net/README.md.

No code of GPA-Net is known. The raster order of parts in two columns is tested with MBA-Net's kit (``mod_pool_2x2``).
"""

from model.methods.gpa_net import GPANet
from tests.parity.methods.kit import Golden
from tests.parity.methods.mba_family import register

golden = Golden("gpa_net")


def network(backbone, identities, **options):
    assert not golden.meta["use_attention"]
    return GPANet(backbone, identities, parts=(golden.meta["part_h"], golden.meta["part_v"]), **options)


network.rate = GPANet.rate
register(golden, network)
test_array = golden.test()
