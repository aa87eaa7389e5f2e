"""HOReID against wangguanan/HOReID@bda30a5, in float64 as its README says; what the arrays are: horeid/README.md."""

from functools import cache, partial

import torch

from loss import TripletLoss
from model.backbones.resnet import SHAPES, ResNet
from model.base import Batch, Progress
from model.methods.horeid import HOReID
from model.methods.horeid.graphs import Affinity, DirectedGraph, NodeLayer, permutation_loss, sinkhorn, voting
from model.methods.horeid.method import confidences, nodes_of, weighted_cross_entropy
from model.methods.horeid.skeletons import SKELETONS
from tests.parity.methods.kit import Golden, load_published

golden = Golden("horeid")
AT = Progress(2, 20, 1)
WIDE = torch.float64
PERSON = SKELETONS[17]


@cache
def published():
    return golden.state(dtype=WIDE)


def build():
    meta = golden.meta
    size = tuple(golden.input(meta["image"]).shape[2:])
    method = HOReID(
        ResNet(SHAPES["resnet50"], size),
        meta["num_classes"],
        smoothing=meta["label_smoothing"],
        margin=meta["triplet_margin"],
        permutation_weight=meta["perm_weight"],
        verification_weight=meta["ver_weight"],
    ).to(WIDE)
    return method, load_published(method, published())


@cache
def evaluated():
    method, found = build()[0].eval(), {}
    method.heatmaps = lambda batch: golden.input(golden.meta["heatmap"], WIDE)
    method.image_encoder.layer4.register_forward_hook(lambda module, args, out: found.update(map=out))
    with torch.no_grad():
        outputs = method(Batch(golden.input(golden.meta["image"], WIDE)))
        scale = outputs["confidence"].sqrt()[..., None]
        found |= {"confidence": outputs["confidence"], "gcn.stage1": method.embed(outputs)}
        found["stage1"] = (scale * method.classify("", outputs["nodes"])[0]).flatten(1)
        found["gcn.stage2"] = method.classify("graph_", method.graph(outputs["nodes"]))[0]
        found["adj1"] = method.graph[0].adjacency(outputs["nodes"])
    torch.testing.assert_close(found["gcn.stage1"], (scale * found["gcn.stage2"]).flatten(1))
    return found


@golden.array(r"eval\.(?!pair\.)(.*)")
def eval_mode(array):
    return evaluated()[array]


golden.refuse(r"eval\.pair\..*", "no pair of images is scored in a test, see docs/methods.md")


@golden.array(r"heat\.(scoremap|max_response)")
def heat(array):
    method = HOReID(ResNet(SHAPES["resnet-tiny"], (256, 128)), 1)
    scores, responses = method.score_maps(golden.input("heatmap", WIDE), tuple(golden.meta["scoremap_size"]))
    return scores if array == "scoremap" else responses


@cache
def trained():
    method, names = build()
    golden.only_stored_gradients(method.train(), names, "train.")
    method.heatmaps = lambda batch: golden.input(golden.meta["train_heatmap"], WIDE)
    outputs = method(Batch(golden.input(golden.meta["train_image"], WIDE)), AT)
    found, recorded = {"confidence": outputs["confidence"]}, {}

    def record(name, compute):
        def wrapped(*args):
            recorded.setdefault(name, []).append((args, compute(*args)))
            return recorded[name][-1][1]

        return wrapped

    method.classify = record("classify", method.classify)
    for name in ("graph", "matching", "verifier"):
        part = getattr(method, name)
        part.forward = record(name, part.forward)
    labels = golden.labels("train_labels")
    terms = method.losses(outputs, labels, AT)[0]
    total = sum(terms.values())
    total.backward()
    (_, logits), (_, graph_logits) = (call[1] for call in recorded["classify"])
    found |= {"logits": logits, "gcn.logits": graph_logits}
    found |= {"features": outputs["nodes"].transpose(0, 1), "gcn.features": recorded["graph"][0][1].transpose(0, 1)}
    for name, (args, (first, _, s)), (_, probability) in zip(
        ("p", "n"), recorded["matching"], recorded["verifier"], strict=True
    ):
        found |= {f"s_{name}": s, f"emb_{name}": first, f"prob_{name}": probability}
        chosen = (args[0][:, None] - args[1][None]).abs().sum((2, 3)).argmin(0)
        found["hard_positive" if name == "p" else "hard_negative"] = chosen
        found[f"loss.perm_{name}"] = permutation_loss(s)
    found |= {"loss.ide": terms["id"], "loss.gcn.ide": terms["graph_id"], "loss.triplet": terms["triplet"]}
    found |= {"loss.gcn.triplet": terms["graph_triplet"], "loss.total_from_epoch_20": total}
    found["loss.ver"] = terms["verification"] / golden.meta["ver_weight"]
    early = method.losses(outputs, labels, Progress(2, 19, 1))[0]
    assert set(terms) - set(early) == {"permutation", "verification"}
    return method, names, found


@golden.array(r"train\.(?!grad\.)(.*)")
def train_mode(array):
    return trained()[2][array]


@golden.array(r"(train\.grad\..*)")
def gradients(array):
    method, names, _ = trained()
    return method.get_parameter(names[golden.source(array)]).grad


def module(make, name):
    made, prefix = make.to(WIDE).train(), f"mod.{name}."
    state = golden.state("manifest_modules", prefix=prefix, dtype=WIDE)
    made.load_state_dict({n.removeprefix(prefix): t for n, t in state.items()})
    return made


@golden.array(r"mod\.(adgc|gconv|affinity|sinkhorn|voting|perm)\.(out|loss|adj|grad)")
def modules(name, array):
    other = golden.input("mod.graph_b", WIDE)
    compute, source = {
        "adgc": lambda: (module(DirectedGraph(16, 14, PERSON.edges), "adgc"), "mod.nodes"),
        "gconv": lambda: (module(NodeLayer(12, 10), "gconv"), "mod.graph_a"),
        "affinity": lambda: (partial(module(Affinity(12), "affinity"), y=other), "mod.graph_a"),
        "sinkhorn": lambda: (sinkhorn, "mod.sinkhorn"),
        "voting": lambda: (voting, "mod.voting"),
        "perm": lambda: (lambda x: permutation_loss(x.sigmoid()), "mod.perm"),
    }[name]()
    x = golden.input(source, WIDE).requires_grad_()
    if array == "adj":
        return compute.adjacency(x)
    out = compute(x)
    (out if name == "perm" else out.square().sum() / 2).backward()
    return x.grad if array == "grad" else out


@golden.array(r"mod\.local\.(features|confidence)")
def local(array):
    if array == "confidence":
        return confidences(golden.input("mod.confidence", WIDE))
    return nodes_of(golden.input("mod.map", WIDE), golden.input("mod.scores", WIDE)).transpose(0, 1)


@golden.array(r"loss\.(triplet|weighted_ide)(\.grad)?")
def losses(kind, gradient):
    meta, labels = golden.meta, golden.labels("loss_labels")
    x = golden.input("loss.feat" if kind == "triplet" else "loss.logits", WIDE).requires_grad_()
    if kind == "triplet":
        value = TripletLoss(meta["triplet_margin"])(x, labels)
    else:
        value = weighted_cross_entropy(x, golden.input("loss.weights", WIDE), labels, meta["label_smoothing"])
    value.backward()
    return x.grad if gradient else value


test_array = golden.test()


def test_the_skeleton_of_a_person_is_the_published_one():
    groups = [list(group) for group in PERSON.groups]
    assert groups == golden.meta["joint_groups"]
    node = golden.meta["global_node"]
    edges = {tuple(edge) for edge in golden.meta["edges"]}
    assert {edge for edge in edges if node not in edge} == set(PERSON.edges)
    assert {edge for edge in edges if node in edge} == {(node, i) for i in range(node)}
