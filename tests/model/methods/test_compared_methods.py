"""The parts of each compared method that no other method has, against slow and obvious computations."""

import pytest
import torch
import torch.nn.functional as F

from configs import load_config
from loss import contrast_terms
from model import DataFacts, make_model
from model.base import Batch, Progress
from model.clip.prompts import Template
from model.clip.shapes import CLIPShape, TextShape, ViTShape
from model.clip.simple_tokenizer import tokenize
from model.loading import load_checkpoint, load_start
from model.methods.baseline import ImageReID, SideInformation
from model.methods.clipreid import CLIPReID
from model.methods.handid import HandID
from model.methods.pcl import PCL
from model.methods.registry import check_method
from model.methods.tfmemory import TFMemory
from processor.training.train_step import TrainStep
from solver import make_optimizers
from tests.loss.test_prototypes import slow_move
from tests.loss.test_supcontrast import slow_supcon
from tests.model.small import AT, build, training_set
from tests.model.weight_files import clip_tensors
from utils.compute.device import Precision
from utils.errors import ReIDError

SHAPE = CLIPShape(ViTShape(64, 2, 16), TextShape(64, 2), 32)
CLASSES = 5
LABELS = torch.tensor([4, 0, 4, 2])
READS_TEXT = (CLIPReID, HandID)


def make(method, seed=0, **options):
    torch.manual_seed(seed)
    return build(method, SHAPE, CLASSES, **options)


def images(count=4, seed=1):
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def step(model, labels=LABELS):
    """Outputs, terms and other scalars of one training step."""
    outputs = model(Batch(images(), labels), AT)
    return outputs, *model.losses(outputs, labels, AT)


def outputs_of(*features):
    return dict(zip(("penultimate", "feature", "projected"), features, strict=True))


def config(*words):
    return load_config(None, words)[0]


# ---------------------------------------------------------------------------------------------------- CLIP-HandID


def handid(**options):
    return make(HandID, sentence="A photo of a X hand", **options)


def test_the_pseudo_word_stands_where_the_placeholder_was():
    table = torch.randn(49408, 64, generator=torch.Generator().manual_seed(2))
    template = Template("A photo of a X hand", table)
    words = torch.randn(3, 1, 64)
    tokens = tokenize("A photo of a sks hand")[0]
    (place,) = (tokens == tokenize("sks")[0, 1]).nonzero()
    for found, word in zip(template.place(words, whole=True), words, strict=True):
        expected = table[tokens].clone()
        expected[place] = word
        assert torch.equal(found, expected)
    assert template.end == int(tokens.argmax())


def test_texts_of_handid_are_the_whole_sentence_through_the_text_encoder():
    model = handid().eval()
    projected = model(Batch(images()))["projected"]
    words = model.inversion(projected).unsqueeze(1)
    whole = model.text_encoder(model.template.place(words, whole=True), model.template.end)
    assert torch.allclose(model.texts(projected), whole, atol=1e-5)


def test_gradients_reach_inversion_and_image_encoder_through_the_frozen_text_encoder():
    model = handid()
    make_optimizers(config("MODEL.METHOD", "handid"), model, 2)
    _, terms, _ = step(model)
    assert set(terms) == {"id", "triplet", "i2t", "t2i"}
    (terms["i2t"] + terms["t2i"]).backward()
    for name, parameter in model.named_parameters():
        if name.startswith("text_encoder."):
            assert parameter.grad is None and not parameter.requires_grad, name
        elif name.startswith(("inversion.", "image_encoder.")) and "attn.in_proj_bias" not in name:
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_images_learn_through_their_own_words():
    """The text path alone: with the image side cut off, the image encoder still gets a gradient."""
    model = handid()
    projected = model(Batch(images()))["projected"]
    texts = model.texts(projected)
    contrast_terms(model.contrast, projected.detach(), texts, LABELS)["t2i"].backward()
    assert model.image_encoder.conv1.weight.grad.abs().sum() > 0


def test_contrast_of_handid_both_ways():
    model = handid(text_weight=0.5)
    projected, texts = torch.randn(4, 32), torch.randn(4, 32)
    model.texts = lambda _: texts
    terms, _ = model.losses(outputs_of(torch.randn(4, 64), torch.randn(4, 64), projected), LABELS, AT)
    for name, pair in {"i2t": (projected, texts), "t2i": (texts, projected)}.items():
        assert float(terms[name]) == pytest.approx(0.5 * float(slow_supcon(*pair, LABELS, LABELS)), rel=1e-5)


# -------------------------------------------------------------------------------------------------------- PCL-CLIP


def all_images(model, count=12, **side):
    """All training images, as :meth:`begin_epoch` gets them."""
    return training_set(model, images(count, seed=7), torch.arange(count) % CLASSES, **side)


FIRST, SECOND = Progress(2, 1), Progress(2, 2)


def test_the_memory_starts_as_means_and_follows_the_batches():
    model = make(PCL).eval()
    model.begin_epoch(all_images(model), FIRST)
    labels = torch.arange(12) % CLASSES
    with torch.no_grad():
        found = model(Batch(images(12, seed=7)))
        joined = torch.cat([model.bottleneck(found["feature"]), model.bottleneck_proj(found["projected"])], 1)
    rows = [F.normalize(joined[labels == i]).double().mean(0) for i in range(CLASSES)]
    expected = torch.stack([row / row.norm() for row in rows])
    assert torch.allclose(model.memory.double(), expected, atol=1e-6)

    model.train()
    slow = model.memory.tolist()
    for seed in (3, 4, 5):
        before, batch = model.memory.clone(), images(seed=seed)
        outputs = model(Batch(batch, LABELS), AT)
        terms, shown = model.losses(outputs, LABELS, AT)
        necks = []
        for value in (outputs["feature"], outputs["projected"]):  # what a BatchNorm in training mode does
            necks.append((value - value.mean(0)) / (value.var(0, unbiased=False) + 1e-5).sqrt())
        feature = F.normalize(torch.cat(necks, 1))
        logits = feature @ before.T / 0.05
        contrast = (logits.logsumexp(1) - logits[range(4), LABELS]).mean()
        assert torch.allclose(terms["pcl"], contrast, rtol=1e-4)
        joined_classifier = torch.cat([model.classifier.weight, model.classifier_proj.weight], 1)
        scores = torch.cat(necks, 1) @ joined_classifier.T
        torch.testing.assert_close(terms["id"], F.cross_entropy(scores, LABELS, label_smoothing=0.1))
        assert shown["accuracy"] == (scores.argmax(1) == LABELS).float().mean()
        slow = slow_move(slow, feature.tolist(), LABELS.tolist(), 0.2)
        assert torch.allclose(model.memory, torch.tensor(slow), atol=1e-5)
        terms["pcl"].backward()  # the memory has moved without an error of autograd
        assert model.image_encoder.conv1.weight.grad.abs().sum() > 0


def test_the_memory_is_rebuilt_each_epoch_or_filled_once():
    for rebuild in (True, False):
        model = make(PCL, rebuild=rebuild).eval()
        model.begin_epoch(all_images(model), FIRST)
        first = model.memory.clone()
        assert torch.allclose(first.norm(dim=1), torch.ones(CLASSES))
        model.memory.copy_(first.roll(1, 0))
        model.begin_epoch(all_images(model), SECOND)
        assert torch.equal(model.memory, first if rebuild else first.roll(1, 0))


def test_the_memory_moves_once_where_float16_is_tried_again(tmp_path):
    model, once = make(PCL), make(PCL)
    for each in (model, once):
        each.memory.copy_(F.normalize(torch.randn(CLASSES, 96, generator=torch.Generator().manual_seed(1))))
    rows, tries = outputs_of(*(torch.randn(4, width) for width in (64, 64, 32))), []

    def outputs(batch, at):
        tries.append(step.precision.dtype)
        return rows, LABELS

    losses = model.losses

    def overflowing(*given):
        terms, shown = losses(*given)
        return {name: term * (torch.inf if len(tries) == 1 else 1) for name, term in terms.items()}, shown

    model.losses = overflowing
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    precision = Precision(torch.device("cpu"), torch.float16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    step = TrainStep(model, outputs, [optimizer], scaler, precision, 0.0, list, tmp_path)
    step(Batch(images(), LABELS), AT)
    once.losses(rows, LABELS, AT)
    assert tries == [torch.float16, torch.float32] and torch.equal(model.memory, once.memory)


# ------------------------------------------------------------------------------------------------- TF-CLIP's memory


def test_the_memory_of_untouched_features_is_computed_once():
    model = make(TFMemory).eval()
    data = all_images(model)
    model.begin_epoch(data, FIRST)
    features, labels = data.features(lambda outputs: outputs["projected"], side=False)
    expected = torch.stack([features.double()[labels == i].mean(0) for i in range(CLASSES)])
    assert torch.allclose(model.memory.double(), expected, atol=1e-6)
    assert "memory" in model.checkpoint()
    with torch.no_grad():
        model.image_encoder.proj.mul_(2)
    model.begin_epoch(data, SECOND)
    assert torch.allclose(model.memory.double(), expected, atol=1e-6), "a trained encoder does not touch it"
    outputs, terms, _ = step(model.train())
    logits = outputs["projected"] @ expected.float().T
    torch.testing.assert_close(terms["i2t"], F.cross_entropy(logits, LABELS, label_smoothing=0.1))
    assert torch.allclose(model.memory.double(), expected, atol=1e-6)


# --------------------------------------------------------------------------------------------- CLIP-ReID's ablations

SENTENCE = "A photo of a X X hand."


@pytest.mark.parametrize("loss", ["none", "i2t", "i2t+t2i", "i2tce", "i2tce+t2i"])
def test_text_losses_by_hand(loss):
    model = make(CLIPReID, sentence=SENTENCE, text_loss=loss, text_weight=0.5)
    with torch.no_grad():
        model.begin_epoch(None, FIRST)
    outputs, terms, shown = step(model)
    images, texts = outputs["projected"].detach(), model.encode_text(torch.arange(CLASSES)).detach()
    expected = {
        "i2t": slow_supcon(images, texts[LABELS], LABELS, LABELS),
        "t2i": slow_supcon(texts[LABELS], images, LABELS, LABELS),
    }
    chosen = loss.split("+")
    if "i2tce" in chosen:  # against all identities, under the name of the image-to-text loss
        expected["i2t"] = F.cross_entropy(images @ texts.T, LABELS, label_smoothing=0.1)
        assert shown["text accuracy"] == ((images @ texts.T).argmax(1) == LABELS).float().mean()
    names = {name.removesuffix("ce") for name in chosen} & expected.keys()
    assert set(terms) == {"id", "triplet"} | names
    for name in names:
        assert float(terms[name].detach()) == pytest.approx(0.5 * float(expected[name]), rel=1e-4)


def test_one_stage_trains_prompts_and_image_encoder_together():
    model = make(CLIPReID, sentence=SENTENCE, text_loss="i2t+t2i", one_stage=True)
    cfg = config("MODEL.ONE_STAGE", "True", "MODEL.TEXT_LOSS", "i2t+t2i", "SOLVER.STAGES", "[2]")
    (optimizer,) = make_optimizers(cfg, model, 2)
    before = {name: p.clone() for name, p in model.named_parameters()}
    outputs, terms, _ = step(model)
    texts = model.encode_text(LABELS)
    expected = slow_supcon(outputs["projected"], texts, LABELS, LABELS).detach()
    assert torch.allclose(terms["i2t"].detach().double(), expected, rtol=1e-4)
    sum(terms.values()).backward()
    optimizer.step()
    moved = (model.prompt_learner.cls_ctx - before["prompt_learner.cls_ctx"]).abs().amax((1, 2)) > 0
    assert {0, 2, 4} <= set(moved.nonzero().flatten().tolist())
    assert not torch.equal(model.image_encoder.conv1.weight, before["image_encoder.conv1.weight"])
    for name, parameter in model.text_encoder.named_parameters():
        assert torch.equal(parameter, before[f"text_encoder.{name}"]), name


@pytest.mark.parametrize("count", [1, 4, 8])
def test_as_many_tokens_as_the_sentence_has(count):
    cfg = config(
        *("MODEL.NAME", "ViT-Tiny-16", "MODEL.PRETRAIN_CHOICE", "random", "INPUT.SIZE_TRAIN", "[32, 32]"),
        *("INPUT.SIZE_TEST", "[32, 32]", "MODEL.PROMPT", f"A photo of a {'X ' * count}hand."),
    )
    learner = make_model(cfg, DataFacts(3, 1, 1, sentence="A photo of a {} person.")).prompt_learner
    assert learner.cls_ctx.shape[:2] == (3, count)
    tokens = tokenize(f"A photo of a {'X ' * count}hand.")[0]
    assert learner(torch.arange(3)).shape[1] == int(tokens.argmax()) + 1


def test_the_data_sets_sentence_gets_the_methods_number_of_words():
    words = ("MODEL.NAME", "ViT-Tiny-16", "MODEL.PRETRAIN_CHOICE", "random", "MODEL.METHOD", "handid")
    model = make_model(config(*words), DataFacts(3, 1, 1, sentence="A photo of a {} hand."))
    assert model.template.free == (1, 64)


@pytest.mark.parametrize("where", ["cls", "all"])
def test_side_information_on_the_class_token_or_on_all(where):
    words = ("MODEL.NAME", "ViT-Tiny-16", "MODEL.PRETRAIN_CHOICE", "random", "MODEL.METHOD", "baseline")
    cfg = config(*words, "MODEL.SIE_CAMERA", "True", "MODEL.SIE_ON", where)
    model = make_model(cfg, DataFacts(3, 2, 1, sentence="A {} photo"))
    encoder, vector = model.image_encoder, torch.randn(2, 64)
    assert model.side_information == SideInformation(2, 0, 3.0)
    pictures = torch.randn(2, 3, 256, 128)
    patches = encoder.conv1(pictures).flatten(2).transpose(1, 2)
    tokens = torch.cat([encoder.class_embedding.expand(2, 1, -1), patches], 1) + encoder.positional_embedding
    for token in range(tokens.shape[1] if where == "all" else 1):
        tokens[:, token] += vector
    assert torch.allclose(encoder.embed(pictures, vector), encoder.ln_pre(tokens), atol=1e-6)


# --------------------------------------------------------------------------------------------------------- loading


@pytest.mark.parametrize("method", [HandID, PCL, TFMemory])
def test_a_methods_own_tensors_are_reported_and_left_alone(method):
    options = {"sentence": "A photo of a X hand"} if method in READS_TEXT else {}
    state = make(method, **options).checkpoint()
    report = load_checkpoint(make(ImageReID, seed=1), state)
    own = {name for name in state if name.startswith(("inversion.", "template.", "memory"))}
    assert own and own <= set(report.skipped)

    started = make(method, seed=1, **options)
    report = load_start(started, state)
    assert torch.equal(started.image_encoder.conv1.weight, state["image_encoder.conv1.weight"])
    if "memory" in state:
        assert "memory" in report.skipped and not started.memory.any()
    else:
        assert torch.equal(started.inversion[0].weight, state["inversion.0.weight"])


def test_clips_weights_start_every_method():
    tensors = clip_tensors(make(CLIPReID, sentence=SENTENCE))
    for method in (HandID, PCL, TFMemory):
        options = {"sentence": "A photo of a X hand"} if method in READS_TEXT else {}
        model = make(method, seed=1, **options)
        model.image_encoder.load(tensors)
        assert torch.equal(model.image_encoder.conv1.weight, tensors["visual.conv1.weight"])


def test_handid_cannot_start_from_a_checkpoint_without_its_sentence():
    state = make(CLIPReID, sentence=SENTENCE).checkpoint()
    with pytest.raises(ReIDError, match=r"template.token_prefix.*start from CLIP's weights"):
        load_start(handid(), state)


def test_handid_starts_from_a_checkpoint_with_its_own_sentence_only():
    """Both sentences fill the text encoder's 77 tokens, so shapes cannot distinguish them."""
    longer = "A photo of a X left hand of a man"
    state = make(HandID, sentence="A photo of a X hand").checkpoint()
    with pytest.raises(ReIDError, match=r"5 tokens before the learned ones, 1 learned, 2 after.*1 learned, 6 after"):
        load_start(make(HandID, sentence=longer), state)


def test_frozen_patches_of_pcl_keep_their_pre_training():
    solver = config().SOLVER.STAGE2
    for frozen in (True, False):
        rates = {n: make(PCL, freeze_patches=frozen).rate(n, 2, solver) for n, _ in make(PCL).named_parameters()}
        never = {name for name, rate in rates.items() if rate is None}
        patches = {"image_encoder.conv1.weight"} if frozen else set()
        assert never == patches | {"bottleneck.bias", "bottleneck_proj.bias"}
    words = ("MODEL.METHOD", "pcl", "SOLVER.STAGES", "[2]", "MODEL.FREEZE_PATCHES", "True", "MODEL.NAME", "RN50")
    with pytest.raises(ReIDError, match=r"MODEL.FREEZE_PATCHES with MODEL.NAME = RN50"):
        PCL.check(config(*words))


def test_the_centroids_of_pcl_carry_side_information_as_the_images_of_a_batch_do():
    model = make(PCL, side_information=SideInformation(2, 0, 3.0)).eval()
    labels, cameras = torch.arange(12) % CLASSES, torch.arange(12) % 2
    model.begin_epoch(all_images(model, cameras=cameras), FIRST)
    with torch.no_grad():
        found = model(Batch(images(12, seed=7), cameras=cameras))
        joined = torch.cat([model.bottleneck(found["feature"]), model.bottleneck_proj(found["projected"])], 1)
    rows = [F.normalize(joined[labels == i]).mean(0) for i in range(CLASSES)]
    assert torch.allclose(model.memory, F.normalize(torch.stack(rows)), atol=1e-6)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ("MODEL.ONE_STAGE|True|MODEL.TEXT_LOSS|i2t+t2i", "MODEL.ONE_STAGE SOLVER.STAGES [2]"),
        ("MODEL.ONE_STAGE|True|SOLVER.STAGES|[2]", "MODEL.TEXT_LOSS = i2tce i2t+t2i"),
        ("MODEL.TEXT_LOSS|i2t+t2|", "MODEL.TEXT_LOSS choose one of i2t+t2i"),
        ("MODEL.METHOD|handid|SOLVER.STAGES|[2]|MODEL.PROMPT|A hand", "MODEL.PROMPT = 'A hand'"),
        ("MODEL.METHOD|pcl|SOLVER.STAGES|[2]|MODEL.ID_LOSS_TYPE|arcface", "MODEL.ID_LOSS_TYPE = arcface softmax"),
        ("MODEL.TEXT_LOSS|none|MODEL.ID_LOSS_WEIGHT|0", "MODEL.ID_LOSS_WEIGHT = 0"),
        ("INPUT.RESIZE|[100, 300]", "INPUT.RESIZE = [100, 300] INPUT.SIZE_TRAIN = [256, 128]"),
    ],
)
def test_what_cannot_work_is_refused(overrides, words):
    with pytest.raises(ReIDError) as error:
        check_method(config(*overrides.strip("|").split("|")))
    for word in words.split():
        assert word in str(error.value), f"{word!r} is not in {error.value}"
