"""PAT against a slow float64 version of its description; the description leaves choices open, which are keys."""

import math

import numpy as np
import pytest
import torch

from model.backbones.resnet import SHAPES, ResNet
from model.base import Batch, Progress
from model.methods.pat import PAT, part_similarity

AT, SIZE, LABELS = Progress(2, 1, 1), (64, 32), torch.tensor([0, 0, 1, 1])
PARTS, WIDTH = 3, 8


def build(**options):
    torch.manual_seed(0)
    own = {"parts": PARTS, "width": WIDTH, "heads": 2, "hidden": 16, "dropout": 0.0, "smoothing": 0.0} | options
    method = PAT(ResNet(SHAPES["resnet-tiny"], SIZE), 2, **own).double()
    for name, parameter in method.named_parameters():
        if not name.startswith("image_encoder."):  # away from the zeros and ones that they start from
            parameter.data += 0.1 * torch.randn_like(parameter)
    return method


def linear(layer, rows):
    return [[float(b) + sum(float(w) * x for w, x in zip(ws, row, strict=True)) for ws, b in layer] for row in rows]


def weights(module):
    return list(zip(module.weight.tolist(), module.bias.tolist(), strict=True))


def attention(module, queries, context, sigmoid=False):
    q, k, v = (
        linear(weights(m), rows)
        for m, rows in ((module.query, queries), (module.key, context), (module.value, context))
    )
    size = WIDTH // module.heads
    found = []
    for query in q:
        row = []
        for head in range(0, WIDTH, size):
            scores = [sum(query[head + i] * key[head + i] for i in range(size)) / math.sqrt(size) for key in k]
            mask = [1 / (1 + math.exp(-s)) for s in scores] if sigmoid else [math.exp(s) for s in scores]
            total = 1.0 if sigmoid else sum(mask)
            row += [sum(m * value[head + i] for m, value in zip(mask, v, strict=True)) / total for i in range(size)]
        found.append(row)
    return linear(weights(module.out), found)


def norm(module, rows):
    found = []
    for row in rows:
        mean = sum(row) / len(row)
        variance = sum((x - mean) ** 2 for x in row) / len(row)
        found.append(
            [
                (x - mean) / math.sqrt(variance + module.eps) * w + b
                for x, w, b in zip(row, module.weight.tolist(), module.bias.tolist(), strict=True)
            ]
        )
    return found


def feed(module, rows):
    inner = [[max(x, 0.0) for x in row] for row in linear(weights(module[0]), rows)]
    return linear(weights(module[3]), inner)


def plus(first, second):
    return [[a + b for a, b in zip(x, y, strict=True)] for x, y in zip(first, second, strict=True)]


def residual(layer, index, rows, sublayer):
    if layer.norm_first:
        return plus(rows, sublayer(norm(layer.norms[index], rows)))
    return norm(layer.norms[index], plus(rows, sublayer(rows)))


def slow(method, maps, sigmoid):
    """Whole and parts of one image from its map [D, h, w]."""
    reduction = method.reduction
    layer = list(zip(reduction.weight.flatten(1).tolist(), reduction.bias.tolist(), strict=True))
    pixels = linear(layer, maps.flatten(1).T.tolist())
    if method.positions:
        where = (method.rows + method.columns).flatten(0, 1).tolist()
        pixels = plus(pixels, where)
    for layer in method.encoder:
        pixels = residual(layer, 0, pixels, lambda x, layer=layer: attention(layer.attention, x, x))
        pixels = residual(layer, 1, pixels, lambda x, layer=layer: feed(layer.feed, x))
    parts = method.prototypes.tolist()
    for layer in method.decoder:
        parts = residual(layer, 0, parts, lambda x, layer=layer: attention(layer.attention, x, x))
        parts = attention(layer.pooling, parts, pixels, sigmoid)
        parts = residual(layer, 1, parts, lambda x, layer=layer: feed(layer.feed, x))
    return np.mean(pixels, 0), np.array(parts)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"masks": 2, "norm_first": True, "positions": True},
        {"encoders": 2, "decoders": 2, "sigmoid": True},
    ],
    ids=str,
)
def test_features_by_hand(options):
    method = build(**options).eval()
    images = torch.randn(2, 3, *SIZE, dtype=torch.float64)
    with torch.no_grad():
        maps = method.image_encoder(images)["map"]
        found = method(Batch(images))
        for image in range(2):
            whole, parts = slow(method, maps[image], options.get("sigmoid", False))
            np.testing.assert_allclose(found["whole"][image].numpy(), whole, rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(found["parts"][image].numpy(), parts, rtol=1e-9, atol=1e-12)
        assert torch.equal(method.embed(found), torch.cat([found["whole"], found["parts"].flatten(1)], 1))


def test_diversity_of_the_worked_example():
    parts = torch.tensor([[[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]]], dtype=torch.float64)
    assert float(part_similarity(parts)) == pytest.approx(math.sqrt(2) / 3)  # 0.47140
    assert float(part_similarity(torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]]))) == pytest.approx(-1), "not clamped"


def hardest(features, margin):
    """Batch-hard triplet loss over four rows of two identities."""
    rows = np.array(features)
    away = np.maximum(np.sqrt(((rows[:, None] - rows[None]) ** 2).sum(2)), 1e-6)
    total = 0.0
    for i in range(4):
        positive = max(away[i][j] for j in range(4) if j // 2 == i // 2)
        negative = min(away[i][j] for j in range(4) if j // 2 != i // 2)
        total += max(0.0, positive - negative + margin)
    return total / 4


def cross_entropy(rows):
    logits = [row[label] - math.log(sum(map(math.exp, row))) for row, label in zip(rows, (0, 0, 1, 1), strict=True)]
    return -sum(logits) / 4


@pytest.mark.parametrize("joined", [False, True])
def test_losses_by_hand(joined):
    method = build(joined=joined, part_weight=0.5, diversity_weight=2.0, id_weight=3.0, triplet_weight=0.7)
    outputs = method.train()(Batch(torch.randn(4, 3, *SIZE, dtype=torch.float64), LABELS), AT)
    terms = method.losses(outputs, LABELS, AT)[0]
    parts = outputs["parts"].tolist()
    each = [[image[k] for image in parts] for k in range(PARTS)]
    if joined:
        each = [[[x for part in image for x in part] for image in parts]]
    features = [outputs["whole"].tolist(), *each]
    scores = [
        [[sum(w * x for w, x in zip(ws, row, strict=True)) for ws in c.weight.tolist()] for row in rows]
        for c, rows in zip(method.classifiers, features, strict=True)
    ]
    expected = {
        "id": 3 * cross_entropy(scores[0]),
        "triplet": 0.7 * hardest(features[0], 0.3),
        "part_id": 1.5 * float(np.mean([cross_entropy(score) for score in scores[1:]])),
        "part_triplet": 0.35 * float(np.mean([hardest(feature, 0.3) for feature in features[1:]])),
        "diversity": 2 * float(part_similarity(outputs["parts"])),
    }
    assert {name: float(term) for name, term in terms.items()} == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("tested", "size"), [("both", 32), ("whole", 8), ("parts", 24)])
def test_the_test_feature(tested, size):
    method = build(tested=tested, neck=True).eval()
    with torch.no_grad():
        assert method.embed(method(Batch(torch.randn(2, 3, *SIZE, dtype=torch.float64)))).shape == (2, size)
