"""ISP against CASIA-IVA-Lab/ISP-reID@46c6662, in float64 as its README says; what the arrays are: isp/README.md."""

from functools import cache

import pytest
import timm
import torch
from torch.nn.functional import cross_entropy, interpolate

from loss import CenterLoss, CrossEntropyLabelSmooth, TripletLoss
from model.backbones.hrnet import HEAD, SHAPES, HRNet
from model.base import Batch, Progress
from model.layers.warp import warped_labels
from model.methods.isp import ISP
from model.methods.isp.clustering import enhance, k_means, larger_of_two, norm_ratio, part_labels
from model.methods.isp.method import HEADS, SpatialGate, visible_feature
from tests.parity.methods.kit import Golden, load_published
from utils.retrieval.distances import distance_chunks

golden = Golden("isp")
AT = Progress(2, 1, 1)
WIDE = torch.float64
ORDER = ("whole", "fore", "part")
"""Of the heads in the kit's list of losses."""


@cache
def published():
    return golden.state(dtype=WIDE)


def build(image):
    meta = golden.meta
    images = golden.input(image, WIDE)
    method = ISP(
        HRNet(SHAPES["hrnet_w32"], tuple(images.shape[2:])),
        meta["num_classes"],
        len(images),
        parts=meta["part_num"] - 1,
        smoothing=meta["label_smoothing"],
        margin=meta["triplet_margin"],
        pixel_weight=meta["parsing_weight"],
        center_weight=meta["center_weight"],
    )
    for head, name in HEADS.items():
        method.centers[head].centers.data = golden.input(meta["centers"]["inputs"][name])
    state = dict(published())
    state |= {name: t for name, t in method.state_dict().items() if name.startswith(ISP.resume_only)}
    names = load_published(method.to(WIDE), state)
    assert meta["frozen"] == [n for n in state if n.startswith("bottleneck") and n.endswith("bias")]
    return method, names, images


@cache
def evaluated():
    method, _, images = build("image")
    seen = {}

    def look(name):
        return lambda module, inputs, output: seen.update({name: output.detach()})

    method.image_encoder.layer1.register_forward_hook(look("layer1"))
    method.spatial_attn.register_forward_hook(look("mask"))
    method.part_cls_layer.register_forward_hook(look("scores"))
    method.cls_head.register_forward_pre_hook(lambda module, inputs: seen.update(concat=inputs[0].detach()))
    with torch.no_grad():
        outputs = method.eval()(Batch(images))
        part, whole, fore = method.behind_necks(outputs)
        feature = method.embed(outputs)
    return {
        "feature": feature,
        "arm_global_fore": torch.cat([whole, fore], 1),
        "arm_parts": part.unflatten(1, (method.parts, -1)),
        "arm_visible": outputs["visible"].long(),
        **{f"y_{name}": outputs[head] for head, name in HEADS.items()},
        "part_logits": seen["scores"],
        "spatial_mask": seen["mask"],
        "layer1_mean": seen["layer1"].mean((2, 3)),
        "concat_mean": seen["concat"].mean((2, 3)),
        "concat_std": seen["concat"].std((2, 3)),
    }


@golden.array(r"eval\.(.*)")
def eval_mode(array):
    return evaluated()[array]


@cache
def trained():
    method, names, images = build("train_image")
    labels, target = golden.input("train.labels"), golden.input("train.part_target")
    method.pseudo_labels.copy_(target)
    seen = {}

    def keep(module, inputs, output):
        output.retain_grad()
        seen["scores"] = output

    method.train().part_cls_layer.register_forward_hook(keep)
    upright = torch.eye(2, 3, dtype=WIDE).expand(len(images), 2, 3)
    extra = {"geometry": upright, "erased": torch.zeros(len(images), 4, dtype=WIDE)}
    outputs = method(Batch(images, index=torch.arange(len(images)), extra=extra), AT)
    scores = dict(zip(HEADS, method.logits(outputs), strict=True))
    running = method.necks["part"].running_var.clone()
    method.logits = lambda _: list(scores.values())  # computed once, as the running statistics count it
    terms, _ = method.losses(outputs, labels, AT)
    sum(terms.values()).backward()
    parsing = outputs["pixel_loss"].sum() / outputs["pixel_count"].sum()
    smoothed, triplet = method.cross_entropy, method.triplet
    losses = [smoothed(scores[head], labels) for head in ORDER] + [parsing]
    losses += [triplet(outputs[head], labels) for head in ORDER]
    losses += [method.centers[head](outputs[head], labels) for head in ORDER]
    plain = terms["id"] + terms["triplet"] + terms["pixel"]
    losses += [plain, plain + terms["center"]]
    norms = [method.get_parameter(names[name]).grad for name in golden.meta["param_names"]]
    return {
        **{f"score_{name}": scores[head] for head, name in HEADS.items()},
        **{f"y_{name}": outputs[head] for head, name in HEADS.items()},
        "losses": torch.stack(losses),
        "part_logits": seen["scores"],
        "grad_part_logits": seen["scores"].grad,
        "param_grad_norms": torch.stack([torch.zeros((), dtype=WIDE) if g is None else g.norm() for g in norms]),
        "bottleneck_part_running_var": running,
    }


@golden.array(r"train(?:64)?\.(.*)")
def train_mode(array):
    return trained()[array]


@golden.array(r"mod\.spatial_attn_(train|eval)(_grad)?")
def spatial_attention(mode, gradient):
    x = golden.input("mod.x", WIDE).requires_grad_()
    module, prefix = SpatialGate(x.shape[1]).to(WIDE).train(mode == "train"), "base.spatial_attn."
    module.load_state_dict({n.removeprefix(prefix): t for n, t in published().items() if n.startswith(prefix)})
    out = module(x)
    out.square().sum().backward()
    return x.grad.norm(dim=(2, 3)) if gradient else out


@golden.array(r"loss\.(xent|triplet|center|parsing)(_grad(?:_feat|_centers)?)?")
def losses(kind, gradient):
    meta, labels = golden.meta, golden.input("loss.labels")
    inputs = {"xent": "logits", "triplet": "feat", "center": "feat", "parsing": "part_logits"}
    x = golden.input(f"loss.{inputs[kind]}", WIDE).requires_grad_()
    if kind == "center":
        criterion = CenterLoss(*golden.input("loss.centers").shape).to(WIDE)
        criterion.centers.data = golden.input("loss.centers", WIDE)
        value = criterion(x, labels)
    elif kind == "parsing":
        value = cross_entropy(x, golden.input("loss.part_target"), ignore_index=meta["ignore_label"])
    elif kind == "xent":
        value = CrossEntropyLabelSmooth(meta["label_smoothing"])(x, labels)
    else:
        value = TripletLoss(meta["triplet_margin"])(x, labels)
    value.backward()
    if gradient == "_grad_centers":
        return criterion.centers.grad
    return x.grad if gradient else value


@golden.array(r"arm\.score")
def aligned_matching():
    def row(side):
        part, rest, visible = (golden.input(f"arm.{side}_{name}", WIDE) for name in ("part", "gf", "visible"))
        return visible_feature(*((x[None] if side == "q" else x) for x in (part, rest, visible)))

    (distances,) = distance_chunks(row("q"), row("g"), metric="visible")
    return 1 - distances[0]


@golden.array(r"cluster\.(labels|labels_not_enhanced|norm_ratio|enhanced)")
def clustering(array):
    pixels, size = golden.input("cluster.features", WIDE), tuple(golden.meta["cluster"]["map"])
    ratio = norm_ratio(pixels.norm(dim=2))
    if array == "norm_ratio":
        return ratio
    if array == "enhanced":
        return enhance(ratio)
    generator = torch.Generator().manual_seed(0)
    options = {"enhanced": array == "labels", "restarts": golden.meta["cluster"]["restarts"], "generator": generator}
    return part_labels(pixels, size, golden.meta["cluster"]["part_clusters"], **options).long()


test_array = golden.test()


def test_the_backbone_is_timms():
    """timm's HRNet is another implementation; it has the same names."""
    torch.manual_seed(0)
    other = timm.create_model("hrnet_w32").eval()
    network = HRNet(SHAPES["hrnet_w32"], (64, 32)).eval()
    report = network.load(other.state_dict())
    assert report.loaded and all(name.startswith(HEAD) for name in report.skipped)
    images = torch.randn(1, 3, 64, 32)
    with torch.no_grad():
        stem = other.act2(other.bn2(other.conv2(other.act1(other.bn1(other.conv1(images))))))
        wide = [widen(one) for widen, one in zip(other.incre_modules, other.stages(stem), strict=True)]
        joined = [interpolate(one, (16, 8), mode="bilinear", align_corners=True) for one in wide]
        torch.testing.assert_close(network.maps(images), torch.cat(joined, 1))


def test_two_clusters_are_the_best_cut_of_all():
    torch.manual_seed(0)
    values = torch.cat([torch.rand(30), 0.7 + torch.rand(20)])
    ordered = values.sort().values.double()
    errors = [sum(((part - part.mean()) ** 2).sum() for part in (ordered[:i], ordered[i:])) for i in range(1, 50)]
    best = min(range(49), key=errors.__getitem__)
    assert torch.equal(larger_of_two(values), values.double() > ordered[best])
    assert larger_of_two(torch.ones(4)).all()


def test_few_and_equal_pixels_have_labels_too():
    """One image of one colour, and a foreground with fewer pixels than parts."""
    generator = torch.Generator().manual_seed(0)
    assert part_labels(torch.ones(1, 12, 3), (4, 3), 6, generator=generator).shape == (1, 4, 3)
    assert part_labels(torch.zeros(2, 12, 3), (4, 3), 6, generator=generator).max() == 0
    pixels = torch.full((1, 12, 3), 1e-3)
    pixels[0, 4], pixels[0, 10] = torch.tensor([9.0, 0, 0]), torch.tensor([0, 9.0, 0])
    labels = part_labels(pixels, (4, 3), 6, generator=generator).flatten()
    assert labels.nonzero().flatten().tolist() == [4, 10] and labels[4] == 1 and labels[10] == 2
    assert len(k_means(torch.zeros(5, 2), 3).unique()) >= 1


def test_parts_from_the_middle_outwards():
    """Rings around the foreground's middle: rows would not distinguish them."""
    row, column = torch.meshgrid(torch.arange(9.0) - 4, torch.arange(9.0) - 4, indexing="ij")
    ring = (torch.maximum(row.abs(), column.abs()).long() + 1) // 2
    pixels = torch.eye(3)[ring.clamp_max(2)].flatten(0, 1)[None]
    pixels[0, 0] = 0
    options = {"generator": torch.Generator().manual_seed(0), "restarts": 20, "enhanced": False}
    found = part_labels(pixels, (9, 9), 3, by_centre=True, **options)[0]
    assert found[4, 4] == 1 and found[4, 6] == 2 and found[0, 4] == 3 and found[0, 0] == 0


def test_labels_follow_the_augmentation():
    """Mirrored, moved down by a quarter of the height, with the lower right quarter erased."""
    labels = torch.arange(1, 17).view(1, 4, 4)
    geometry = torch.tensor([[[-1.0, 0, 0], [0, 1, -0.5]]])
    expected = torch.tensor([[0, 0, 0, 0], [4, 3, 2, 1], [8, 7, 0, 0], [12, 11, 0, 0]])
    found = warped_labels(labels, geometry, torch.tensor([[0.5, 0.5, 1, 1]]))
    assert torch.equal(found[0], expected)


@pytest.mark.parametrize("visible", [False, True])
def test_distances_of_visible_parts_against_a_loop(visible):
    torch.manual_seed(0)
    sets = [(torch.randn(n, 3, 4), torch.randn(n, 5), torch.rand(n, 3).round()) for n in (4, 6)]
    query, gallery = (visible_feature(*one) for one in sets)
    found = torch.cat(list(distance_chunks(query, gallery, metric="visible", chunk_size=3 if visible else None)))
    for i, (q, q_rest, q_seen) in enumerate(zip(*sets[0], strict=True)):
        for j, (g, g_rest, g_seen) in enumerate(zip(*sets[1], strict=True)):
            shares = q_seen * g_seen
            alike = (1 + torch.cosine_similarity(q, g)) / 2
            whole = (1 + torch.cosine_similarity(q_rest, g_rest, dim=0)) / 2
            assert 1 - float(found[i, j]) == pytest.approx(
                float((shares @ alike + whole) / (shares.sum() + 1)), abs=1e-6
            )
