"""Auto-ReID's cells against D-X-Y/AutoDL-Projects@f46486e; the arrays hold modules alone, see autoreid/README.md."""

from functools import cache

import pytest
import torch

from model.backbones.autoreid import SEARCHED, SHAPES, AutoReIDNet
from model.layers.cells import OPERATIONS, Cell, FactorisedReduction, PartAware
from tests.parity.methods.kit import Golden

golden = Golden("autoreid")
NAMES = (
    (".op_a.op.", ".0."),
    (".op_b.op.", ".1."),
    (".op.", "."),
    ("local_conv_list.", "parts."),
    ("W_K.", "key."),
    ("W_Q.", "query."),
    ("last.conv.", "last.0."),
)
"""Own names by those of the manifest."""


def own_names(state, stride):
    renamed = {}
    for name, tensor in state.items():
        for published, own in NAMES:
            name = f".{name}".replace(published, own)[1:] if published.startswith(".") else name.replace(published, own)
        renamed[name.replace("last.bn.", "last.1.") if stride == 1 else name] = tensor
    return renamed


def make(spec, sizes):
    if spec["kind"] == "part_aware":
        part = golden.meta["part_aware"]
        assert (PartAware.PARTS, part["in"] // 3) == (part["parts"], part["hidden"])
        return PartAware(part["in"], part["out"], spec["stride"])
    reduction = spec["kind"] == "reduce"
    nodes = SEARCHED.reduction if reduction else SEARCHED.normal
    published = golden.meta["genotype"][spec["kind"]]
    assert nodes == tuple(tuple((name, source) for name, source in edges) for edges in published)
    return Cell(nodes, sizes, golden.meta["cells"]["C"], reduction=reduction, behind_reduction=spec["reduction_prev"])


@cache
def computed(case, mode):
    spec = golden.meta["cases"][case]
    inputs = [golden.input(name).requires_grad_() for name in spec["inputs"]]
    module = make(spec, tuple(x.shape[1] for x in inputs))
    state = {name.removeprefix(f"{case}."): t for name, t in golden.state(prefix=f"{case}.").items()}
    module.load_state_dict(own_names(state, spec.get("stride")))
    out = module.train(mode == "train")(*inputs)
    (out * golden.input(spec["probe"])).sum().backward()
    return {"out": out} | {f"grad{i}": x.grad for i, x in enumerate(inputs)}


@golden.array(r"(\w+)\.(train|eval)\.(out|grad\d)")
def modules(case, mode, array):
    return computed(case, mode)[array]


test_array = golden.test()


def test_parts_are_cut_at_truncated_rows():
    """Six rows: 0, 1 to 2, 3, 4 to 5, as published; rounding would cut elsewhere."""
    module = PartAware(6, 6, 1).eval()
    seen = []
    for part in module.parts:
        part.register_forward_pre_hook(lambda _, args: seen.append(args[0].flatten(1)))
    x = torch.arange(6.0).view(1, 1, 6, 1).expand(1, 6, 6, 2)
    module(x)
    assert [float(mean[0, 0]) for mean in seen] == [0, 1.5, 3, 4.5]


def test_a_factorised_reduction_reads_every_second_pixel_and_its_lower_right_neighbour():
    reduction = FactorisedReduction(1, 2).eval()
    for conv in reduction.convs:
        torch.nn.init.ones_(conv.weight)
    x = torch.arange(1.0, 16.0).view(1, 1, 3, 5)
    expected = [[[1, 3, 5], [11, 13, 15]], [[7, 9, 0], [0, 0, 0]]]
    torch.testing.assert_close(reduction(x)[0], torch.tensor(expected).float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("stride", [1, 2])
def test_operations_of_one_cell_have_one_size(operation, stride):
    x = torch.randn(2, 6, 9, 7)
    assert OPERATIONS[operation](6, stride)(x).shape[2:] == ((9, 7) if stride == 1 else (5, 4))


@pytest.mark.parametrize("cells", ["autoreid", "autoreid_without_triplet", "autoreid_without_parts"])
def test_networks_take_square_and_odd_images(cells):
    shape = SHAPES[cells]._replace(channels=4, stem=8, stages=(1, 2, 1, 1))
    for size in ((128, 128), (100, 68)):
        network = AutoReIDNet(shape, size).eval()
        found = network(torch.zeros(1, 3, *size))
        assert tuple(found["map"].shape[2:]) == network.grid and found["feature"].shape == (1, 128)


def test_the_frame_has_as_many_parameters_as_the_papers_network():
    """13.1 million, as remembered."""
    count = sum(p.numel() for p in AutoReIDNet(SHAPES["autoreid"], (384, 128)).parameters())
    assert 12.9e6 < count < 13.2e6
