"""Weights of every kind give the same features; tensors are resized or skipped where that is right, else refused."""

import logging

import pytest
import torch

from configs import load_config
from model import DataFacts, load_prompts, make_model, make_test_model
from model.base import Batch
from model.clip.positions import resize_positions
from model.clip.shapes import CLIPShape, named_shape
from model.clip.weights import read_state_dict
from model.loading import load_checkpoint, load_start
from model.methods.baseline import ImageReID, SideInformation
from model.methods.clipreid import CLIPReID
from tests.model.small import build
from tests.model.weight_files import KINDS, SENTENCE, SHAPES, clip_tensors, small_model, write
from utils.console.logger import LOGGER
from utils.errors import ReIDError

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore::torch.jit.TracerWarning")
PROMPT = "A photo of a {} hand."


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.INFO, LOGGER.name)
    return caplog


def config(name="ViT-Tiny-16", size=(64, 64), **keys):
    pairs = {"MODEL__NAME": name, "INPUT__SIZE_TRAIN": list(size), "INPUT__SIZE_TEST": list(size)} | keys
    words = [str(word) for key, value in pairs.items() for word in (key.replace("__", "."), value)]
    return load_config(None, [*words, "TEST.NECK_FEAT", "before"])[0]


def facts(identities=1, cameras=0, views=1):
    return DataFacts(identities, cameras, views, sentence=PROMPT)


@torch.no_grad()
def embedded(model, size=(64, 64), labels=(None, None)):
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    return model.eval().test_feature(Batch(images, cameras=labels[0], views=labels[1]))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """(architecture, kind) -> file, written at its first use."""
    folder, written = tmp_path_factory.mktemp("weights"), {}

    def file(name, kind):
        if (name, kind) not in written:
            written[name, kind] = write(kind, small_model(name), folder / f"{name}_{kind}.bin")
        return written[name, kind]

    return file


@pytest.mark.parametrize(("name", "least"), [("ViT-Tiny-16", 16), ("RN-Tiny", 15)])
def test_images_too_small_for_a_network(name, least):
    random = {"MODEL__PRETRAIN_CHOICE": "random"}
    assert embedded(make_model(config(name, (least, 40), **random), facts(3)), (least, 40)).isfinite().all()
    with pytest.raises(ReIDError, match=rf"INPUT.SIZE_TRAIN = \[{least - 1}, 40\] is too small.* {least} pixels"):
        make_model(config(name, (least - 1, 40), **random), facts(3))


ALL_KINDS = [
    (name, kind) for name in SHAPES for kind in KINDS if (name, kind) != ("RN-Tiny", "hugging_face")
]  # transformers has no CLIP ResNet


@pytest.mark.parametrize(("name", "kind"), ALL_KINDS)
def test_every_kind_gives_the_same_features(name, kind, files):
    expected = embedded(small_model(name))
    tested = make_test_model(config(name, TEST__WEIGHT=files(name, kind)), facts())
    trained = make_model(config(name, MODEL__PRETRAIN_PATH=files(name, kind)), facts(7))
    for found in (tested, trained):
        torch.testing.assert_close(embedded(found), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("name", "kind"), ALL_KINDS)
def test_the_text_tower_arrives_too(name, kind, files):
    expected = small_model(name).text_encoder
    found = make_model(config(name, MODEL__PRETRAIN_PATH=files(name, kind)), facts(7)).text_encoder
    prompts = torch.randn(3, 12, 64)
    with torch.no_grad():
        torch.testing.assert_close(found(prompts, 11), expected(prompts, 11), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "kind"), [("ViT-Tiny-16", "plain"), ("ViT-Tiny-16", "clipreid"), ("RN-Tiny", "plain")]
)
@pytest.mark.parametrize(("size", "stride"), [((128, 64), [16, 16]), ((64, 64), [12, 12])])
def test_other_image_size_and_stride(name, kind, size, stride, files, log):
    """Position embeddings are resized as the published code does it, and the log says so."""
    start = small_model(name)
    keys = {"TEST__WEIGHT": files(name, kind), "MODEL__STRIDE_SIZE": stride}
    if kind == "clipreid":
        with pytest.raises(ReIDError, match=r"clipreid.bin: .*of 16 patches.*MODEL.POSITION_GRID.*\[4, 4\], \[8, 2\]"):
            make_test_model(config(name, size, **keys), facts())
        keys["MODEL__POSITION_GRID"] = [4, 4]
    cfg = config(name, size, **keys)
    found = make_test_model(cfg, facts())
    key = "positional_embedding" if name.startswith("ViT") else "attnpool.positional_embedding"
    own = found.image_encoder.get_parameter(key)
    rows, columns = found.image_encoder.grid
    assert len(own) == 1 + rows * columns
    expected = resize_positions(start.image_encoder.get_parameter(key), (rows, columns), (4, 4))
    assert torch.equal(own, expected)
    if (rows, columns) != (4, 4):
        lines = [line for line in log.text.splitlines() if line.startswith("resized")]
        assert len(lines) == 1 and f"4 x 4 patches -> {rows} x {columns}" in lines[0] and key in lines[0]
    assert embedded(found, size).isfinite().all()


@pytest.mark.parametrize("name", ["ViT-Tiny-16", "RN-Tiny"])
@pytest.mark.parametrize(
    ("trained", "tested"),
    [((64, 128), (128, 64)), ((128, 64), (64, 128)), ((144, 64), (96, 96)), ((64, 128), (64, 128))],
)
def test_a_checkpoint_records_its_grid(name, trained, tested, tmp_path):
    """Grids with the same number of patches differ: 9 x 4 is not 6 x 6."""
    random = {"MODEL__PRETRAIN_CHOICE": "random"}
    start = make_model(config(name, trained, **random), facts(3))
    torch.save(start.checkpoint(), tmp_path / "w.pth")
    torch.save(dict(start.checkpoint()), tmp_path / "old.pth")
    key = f"image_encoder.{start.image_encoder.positions}"
    for found in (
        make_test_model(config(name, tested, TEST__WEIGHT=tmp_path / "w.pth"), facts()),
        make_model(config(name, tested, MODEL__PRETRAIN_PATH=tmp_path / "w.pth"), facts(3)),
    ):
        grids = found.image_encoder.grid, start.image_encoder.grid
        assert torch.equal(found.state_dict()[key], resize_positions(start.state_dict()[key], *grids))
    with pytest.raises(ReIDError, match=r"old.pth: .*does not record their rows and columns. Set MODEL.POSITION_GRID"):
        make_test_model(config(name, (64, 128), TEST__WEIGHT=tmp_path / "old.pth"), facts())


def test_start_of_a_training_on_another_data_set(files, log):
    """Identity-bound parts keep their start values even where the shapes happen to agree."""
    published = small_model()
    for classes in (5, 7):
        cfg = config(MODEL__PRETRAIN_PATH=files("ViT-Tiny-16", "clipreid"))
        model = make_model(cfg, facts(classes))
        own, theirs = model.state_dict(), published.checkpoint()
        for name, tensor in theirs.items():
            bound = name.startswith(("classifier", "prompt_learner.cls_ctx"))
            assert own[name].shape[0] == classes if bound else torch.equal(own[name], tensor), name
            assert not bound or own[name].shape != tensor.shape or not torch.equal(own[name], tensor), name
    table = log.messages[-1]
    for name in ("classifier.weight", "classifier_proj.weight", "prompt_learner.cls_ctx"):
        assert any(line.startswith("skipped") and name in line for line in table.splitlines())
        assert any(line.startswith("missing") and name in line for line in table.splitlines())
    assert "the fixed words around the prompts stay" in log.text and "X X X X hand." in log.text


@pytest.mark.parametrize(
    "sentence", ["A photo of X X X X hand.", "A photo of a X X hand.", "A photo of a X X X X left hand."]
)
def test_sentence_of_another_length_needs_token_embeddings(sentence, files):
    cfg = config(MODEL__PRETRAIN_PATH=files("ViT-Tiny-16", "clipreid"), MODEL__PROMPT=sentence)
    with pytest.raises(
        ReIDError, match=r"5 tokens before the learned ones, 4 learned, 3 after.*MODEL.PROMPT"
    ) as raised:
        make_model(cfg, facts(7))
    assert sentence in str(raised.value) and "clipreid.bin" in str(raised.value)


def test_sentence_fills_the_whole_context():
    """No padding is left behind it."""
    long = "A photo of a X X X X " + "hand " * 67
    model, other = small_model(sentence=long), small_model(sentence=SENTENCE)
    assert model.prompt_learner.end == 76
    load_start(small_model(sentence=long), model.checkpoint())
    with pytest.raises(ReIDError, match="67 after"):
        load_start(other, model.checkpoint())


def test_baseline_from_a_checkpoint_with_text_and_back(files, tmp_path):
    cfg = config(MODEL__PRETRAIN_PATH=files("ViT-Tiny-16", "clipreid"), MODEL__METHOD="baseline", SOLVER__STAGES=[2])
    baseline = make_model(cfg, facts(7))
    assert type(baseline) is ImageReID
    torch.testing.assert_close(embedded(baseline), embedded(small_model()), rtol=0, atol=1e-6)
    torch.save(baseline.checkpoint(), tmp_path / "baseline.pth")
    with pytest.raises(ReIDError, match=r"baseline.pth: there is no text encoder.*MODEL.METHOD to baseline"):
        make_model(config(MODEL__PRETRAIN_PATH=tmp_path / "baseline.pth"), facts(7))


def test_checkpoint_without_classifiers(tmp_path, log):
    state = {n: t for n, t in small_model().checkpoint().items() if not n.startswith("classifier")}
    torch.save(state, tmp_path / "w.pth")
    model = make_test_model(config(TEST__WEIGHT=tmp_path / "w.pth"), facts())
    torch.testing.assert_close(embedded(model), embedded(small_model()), rtol=0, atol=1e-6)
    assert "missing  classifier.weight" in log.text


def test_long_lists_are_short_in_the_log(files, log):
    make_test_model(config(TEST__WEIGHT=files("ViT-Tiny-16", "clipreid")), facts())
    lines = log.messages[-1].splitlines()
    count = sum(name.startswith("text_encoder.") for name in small_model().checkpoint())
    assert f"skipped  text_encoder.* ({count} tensors): not used here" in lines
    assert len(lines) < 12


@pytest.fixture
def side_checkpoint(tmp_path):
    """A ViT trained with six cameras."""
    model = small_model(side_information=SideInformation(6, 0, 1.0))
    torch.save(model.checkpoint(), tmp_path / "sie.pth")
    return model, tmp_path / "sie.pth"


def test_side_information_of_the_same_cameras(side_checkpoint):
    model, path = side_checkpoint
    found = make_test_model(config(TEST__WEIGHT=path, MODEL__SIE_CAMERA=True, MODEL__SIE_COE=1.0), facts(1, 6))
    cameras = torch.tensor([5, 2])
    expected = embedded(model, labels=(cameras, None))
    assert torch.equal(embedded(found, labels=(cameras, None)), expected)
    assert not torch.allclose(expected, embedded(model), atol=1e-4)


@pytest.mark.parametrize("cameras", [0, 6])
def test_side_information_must_not_be_forgotten(side_checkpoint, cameras):
    with pytest.raises(ReIDError, match=r"sie.pth: it was trained with side information; set MODEL.SIE_CAMERA"):
        make_test_model(config(TEST__WEIGHT=side_checkpoint[1]), facts(1, cameras))


def test_side_information_of_other_cameras(side_checkpoint, log):
    model, path = side_checkpoint
    with pytest.raises(ReIDError, match=r"with 6 cameras; the data set has 8. Set MODEL.SIE_CAMERA"):
        make_test_model(config(TEST__WEIGHT=path, MODEL__SIE_CAMERA=True), facts(1, 8))
    without = make_test_model(config(TEST__WEIGHT=path), facts(1, 8))
    torch.testing.assert_close(embedded(without), embedded(model), rtol=0, atol=1e-6)
    assert "is of other cameras" in log.text and "skipped  cv_embed: switched off here" in log.text


def test_training_with_other_cameras(side_checkpoint, log):
    """Four cameras in place of six: the camera table is initialised again, everything else is loaded."""
    model = make_model(config(MODEL__PRETRAIN_PATH=side_checkpoint[1], MODEL__SIE_CAMERA=True), facts(7, 4))
    assert model.cv_embed.shape == (4, 64)
    assert "skipped  cv_embed: bound" in log.text and "missing  cv_embed" in log.text


def test_cameras_and_views_share_the_table(tmp_path):
    torch.save(small_model(side_information=SideInformation(3, 2, 1.0)).checkpoint(), tmp_path / "w.pth")
    both = {"MODEL__SIE_CAMERA": True, "MODEL__SIE_VIEW": True, "TEST__WEIGHT": tmp_path / "w.pth"}
    assert make_test_model(config(**both), facts(1, 3, 2)).side_information[:2] == (3, 2)
    with pytest.raises(ReIDError, match="6 rows, no multiple of the data set's 4 views"):
        make_test_model(config(**both), facts(1, 3, 4))


def test_no_side_information_in_the_file(files):
    with pytest.raises(
        ReIDError, match=r"trained without side information; set MODEL.SIE_CAMERA and MODEL.SIE_VIEW to"
    ):
        make_test_model(config(TEST__WEIGHT=files("ViT-Tiny-16", "clipreid"), MODEL__SIE_CAMERA=True), facts())


def test_published_resnet_has_an_idle_table(tmp_path, log):
    """The published RN50 allocates cv_embed and never uses it."""
    state = small_model("RN-Tiny").checkpoint() | {"cv_embed": torch.ones(6, 64)}
    torch.save(state, tmp_path / "rn.pth")
    found = make_test_model(config("RN-Tiny", TEST__WEIGHT=tmp_path / "rn.pth"), facts(1, 6))
    assert torch.equal(embedded(found), embedded(small_model("RN-Tiny")))
    assert "skipped  cv_embed" in log.text


# What does not fit.


@pytest.mark.parametrize(
    ("load", "weights"),
    [
        (lambda model, tensors: model.image_encoder.load(tensors), lambda: clip_tensors(small_model())),
        (load_checkpoint, lambda: small_model().checkpoint()),
    ],
)
def test_other_network(load, weights):
    """Another architecture, or another width of the shared space: tensor and shapes are named, nothing is copied."""
    resnet = build(CLIPReID, SHAPES["RN-Tiny"], 5, (64, 64), sentence=SENTENCE)
    with pytest.raises(ReIDError, match=r"the tensor \w+.*\[.*(has no place in|needs)"):
        load(resnet, weights())
    wider = build(ImageReID, CLIPShape(SHAPES["ViT-Tiny-16"].image, None, 48), 5, (64, 64))
    before = {name: tensor.clone() for name, tensor in wider.state_dict().items()}
    with pytest.raises(ReIDError, match=r"the tensor \S+ has the shape \[.*32\]; .* needs \[.*48\]"):
        load(wider, weights())
    assert all(torch.equal(tensor, before[name]) for name, tensor in wider.state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_encoder.ln_pre.weight": torch.ones(65)}, r"image_encoder.ln_pre.weight has the shape \[65\].*\[64\]"),
        ({"image_encoder.head.weight": torch.ones(2)}, r"image_encoder.head.weight \[2\] has no place"),
        ({"image_encoder.ln_post.bias": None}, r"1 tensors that .* first image_encoder.ln_post.bias \[64\]"),
        ({"image_encoder.positional_embedding": torch.ones(17, 65)}, r"positional_embedding has the shape \[17, 65\]"),
        ({"bottleneck.running_mean": None}, "first bottleneck.running_mean"),
        ({"classifier_2.weight": torch.ones(2, 2)}, r"classifier_2.weight \[2, 2\] has no place"),
        ({"image_encoder.proj": torch.ones(64)}, "w.pth: .*"),
        ({"image_encoder.conv1.weight": torch.ones(64)}, "w.pth: This is not a CLIP-ReID checkpoint"),
    ],
)
def test_checkpoints_that_do_not_fit(change, message, tmp_path):
    state = small_model().checkpoint() | change
    torch.save({name: tensor for name, tensor in state.items() if tensor is not None}, tmp_path / "w.pth")
    for key in ("TEST__WEIGHT", "MODEL__PRETRAIN_PATH"):
        cfg = config(**{key: tmp_path / "w.pth"})
        with pytest.raises(ReIDError, match=message) as raised:
            make_test_model(cfg, facts()) if key == "TEST__WEIGHT" else make_model(cfg, facts(7))
        assert "w.pth" in str(raised.value)


@pytest.mark.parametrize("name", ["visual.ln_post.weight", "transformer.resblocks.0.ln_1.bias"])
def test_clip_weights_with_a_hole(name, tmp_path):
    tensors = clip_tensors(small_model())
    del tensors[name]
    torch.save(tensors, tmp_path / "w.pt")
    with pytest.raises(ReIDError, match=rf"w.pt: 1 tensors .* first {name}"):
        make_model(config(MODEL__PRETRAIN_PATH=tmp_path / "w.pt"), facts(7))


@pytest.mark.parametrize("kind", ["plain", "clipreid"])
def test_architecture_of_another_family(kind, files):
    with pytest.raises(ReIDError, match=r"weights of a (RN-Tiny|ResNet), but MODEL.NAME = ViT-Tiny-16"):
        make_test_model(config(TEST__WEIGHT=files("RN-Tiny", kind)), facts())


def test_a_name_of_other_sizes_is_refused(tmp_path):
    """Results carry MODEL.NAME, which must be what was tested."""
    torch.save(build(ImageReID, named_shape("ViT-Tiny-16"), 5, (64, 64)).checkpoint(), tmp_path / "w.pth")
    assert make_test_model(config("ViT-Tiny-16", TEST__WEIGHT=tmp_path / "w.pth"), facts()).num_classes == 5
    with pytest.raises(ReIDError, match=r"weights of a ViT-Tiny-16, but MODEL.NAME = ViT-B-16"):
        make_test_model(config("ViT-B-16", TEST__WEIGHT=tmp_path / "w.pth"), facts())


# Prompts of stage 1.


def test_prompts(tmp_path):
    learned = small_model()
    torch.save(learned.checkpoint(), tmp_path / "stage1.pth")
    model = small_model()
    torch.nn.init.zeros_(model.prompt_learner.cls_ctx)
    load_prompts(model, str(tmp_path / "stage1.pth"))
    assert torch.equal(model.prompt_learner.cls_ctx, learned.prompt_learner.cls_ctx)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": 6}, r"stage1.pth: the prompts of 6 identities.*\[6, 4, 64\].*found.*\[5, 4, 64\]"),
        ({"sentence": "A photo of a X X X X hand."}, r"token_suffix differs.*MODEL.PROMPT"),
        ({"sentence": "A picture of a X X X X person."}, "token_prefix differs"),
        ({"sentence": "A photo of X X X X person."}, "token_prefix differs"),
    ],
)
def test_prompts_of_other_identities_or_another_sentence(options, message, tmp_path):
    torch.save(small_model().checkpoint(), tmp_path / "stage1.pth")
    with pytest.raises(ReIDError, match=rf"MODEL.STAGE1_WEIGHT = .*{message}"):
        load_prompts(small_model(**options), str(tmp_path / "stage1.pth"))


def test_prompts_that_are_not_there(tmp_path):
    baseline = build(ImageReID, SHAPES["ViT-Tiny-16"], 5, (64, 64))
    torch.save(baseline.checkpoint(), tmp_path / "w.pth")
    with pytest.raises(ReIDError, match="found none"):
        load_prompts(small_model(), str(tmp_path / "w.pth"))
    with pytest.raises(ReIDError, match=r"ImageReID has no prompts"):
        load_prompts(baseline, str(tmp_path / "w.pth"))


# Activation.


def test_activation_is_a_choice(files):
    path = files("ViT-Tiny-16", "plain")
    quick, exact = (
        make_test_model(config(TEST__WEIGHT=path, MODEL__ACTIVATION=name), facts()) for name in ("quick_gelu", "gelu")
    )
    assert quick.state_dict().keys() == exact.state_dict().keys()
    x = torch.linspace(-3, 3, 50)
    with torch.no_grad():
        block = exact.image_encoder.transformer.resblocks[1].mlp
        torch.testing.assert_close(block.gelu(x), x * (1 + torch.erf(x / 2**0.5)) / 2)
    difference = (embedded(quick) - embedded(exact)).abs().max()
    assert 1e-4 < difference < 1


def test_reading_strips_the_prefix_of_data_parallel(files):
    assert all(not name.startswith("module.") for name in read_state_dict(files("ViT-Tiny-16", "clipreid")))
