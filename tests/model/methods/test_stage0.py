"""Stage 0 of CLIP-ReID: images against sentences."""

import pytest
import torch
import torch.nn.functional as F

from configs import load_config
from model import METHODS, CaptionReader, check_method
from model.base import Progress
from model.clip.alignment import clip_tensors
from model.clip.prompts import sentence_features
from model.clip.simple_tokenizer import tokenize
from solver import make_optimizers
from tests.model.methods.toy import ATTRIBUTES, build, config, outputs_of, stages, toy_batch, trained
from utils.errors import ReIDError

ALL = ("SOLVER.STAGES", "[0, 1, 2]")
AT = Progress(0, 1, 1)
SENTENCES = ["a left hand", "the back of a right hand with a scar", "a left hand"]


def stage_of(cfg):
    (stage,) = [stage for stage in stages(cfg) if stage.number == 0]
    return stage


def test_only_a_training_with_stage_0_needs_captions():
    method = METHODS["clipreid"]
    assert "caption" in method.needs(config("clipreid", *ALL), training=True)
    assert "caption" not in method.needs(config("clipreid", *ALL), training=False)
    assert "caption" not in method.needs(config("clipreid"), training=True)
    assert "caption" not in METHODS["cilp_fgdi"].needs(config("cilp_fgdi"), training=True)


def test_the_loss_is_symmetric_with_the_sentences_of_others_as_positives():
    """Against the formula over all rows, each sentence encoded alone, in a loop."""
    cfg = config("clipreid", *ALL)
    method, batch = build(cfg), toy_batch(cfg)
    outputs, labels = outputs_of(method, stage_of(cfg), batch)(batch, AT)
    terms, shown = method.losses(outputs, labels, AT)
    tokens = batch.extra["caption"]
    table = method.alignment.token_embedding
    texts = torch.cat([method.text_encoder(table[row[: row.argmax() + 1]][None], int(row.argmax())) for row in tokens])
    logits = method.alignment.logit_scale.exp() * F.normalize(outputs["projected"]) @ F.normalize(texts).T
    same = (tokens[:, None] == tokens).all(-1).double()
    wanted = same / same.sum(1, keepdim=True)
    loss = -sum((wanted * z.double().log_softmax(1)).sum(1).mean() for z in (logits, logits.T)) / 2
    assert terms.keys() == {"info_nce"} and float(terms["info_nce"]) == pytest.approx(float(loss), rel=1e-4)
    assert float(shown["scale"]) == pytest.approx(1 / 0.07, rel=1e-5)


def test_sentences_of_other_lengths_do_not_matter():
    cfg = config("clipreid", *ALL)
    method = build(cfg).eval()
    given = (method.text_encoder, method.alignment.token_embedding, 77)
    together = sentence_features(*given, SENTENCES)
    for row, sentence in zip(together, SENTENCES, strict=True):
        torch.testing.assert_close(row, sentence_features(*given, [sentence])[0], rtol=1e-4, atol=1e-6)
    many = sentence_features(*given, [f"{'very ' * (i % 7)}large hand {i % 90}" for i in range(300)])
    torch.testing.assert_close(many[3], sentence_features(*given, ["very very very large hand 3"])[0])


def test_micro_batches_are_one_batch():
    cfg = config("clipreid", *ALL)
    found = []
    for parts in (1, 4):
        method, batch = build(cfg), toy_batch(cfg)
        outputs, labels = outputs_of(method, stage_of(cfg), batch, parts)(batch, AT)
        sum(method.losses(outputs, labels, AT)[0].values()).backward()
        found.append({name: p.grad for name, p in method.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys() and "alignment.logit_scale" in found[0]
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-3, atol=1e-6)


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path):
    cfg = config("clipreid", *ALL)
    stage = stage_of(cfg)
    method, step, optimizers, batch = trained(cfg, stage, tmp_path)
    step(batch, AT)
    state = ({n: t.clone() for n, t in method.state_dict().items()}, optimizers[0].state_dict())
    torch.save(state, tmp_path / "state.pt")
    step(batch, Progress(0, 1, 2))
    other, again, fresh, _ = trained(cfg, stage, tmp_path)
    kept, of_optimizer = torch.load(tmp_path / "state.pt", weights_only=True)
    other.load_state_dict(kept)
    fresh[0].load_state_dict(of_optimizer)
    again(batch, Progress(0, 1, 2))
    for name, tensor in method.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


def test_words_that_do_not_occur_keep_their_embedding(tmp_path):
    cfg = config("clipreid", *ALL, "SOLVER.STAGE0.OPTIMIZER_NAME", "AdamW", "SOLVER.STAGE0.WEIGHT_DECAY", "0.5")
    method, step, _, batch = trained(cfg, stage_of(cfg), tmp_path)
    before = method.alignment.token_embedding.detach().clone()
    step(batch, AT)
    changed = (method.alignment.token_embedding != before).any(1).nonzero().flatten().tolist()
    assert set(changed) == set(batch.extra["caption"].flatten().tolist()) - {0}


@pytest.mark.parametrize(("locked", "tower"), [("image_encoder.", "image"), ("text_encoder.", "text")])
def test_a_locked_tower_stays_as_it_is(locked, tower, tmp_path):
    """LiT: at the end, only the other tower takes up the length."""
    cfg = config("clipreid", *ALL, "SOLVER.STAGE0.LOCK", f"['{locked}']")
    method, step, _, batch = trained(cfg, stage_of(cfg), tmp_path)
    assert method.frozen(AT) == (locked,) and method.frozen(Progress(2, 1)) == ()
    before = {name: tensor.clone() for name, tensor in method.state_dict().items()}
    step(batch, AT)
    method.finish_alignment(torch.randn(8, 32), torch.randn(8, 32))
    moved = {
        name.split(".")[0] for name, tensor in method.state_dict().items() if not torch.equal(tensor, before[name])
    }
    other = {"image": "text_encoder", "text": "image_encoder"}[tower]
    assert {other, "alignment"} <= moved and locked.rstrip(".") not in moved


@pytest.mark.parametrize("network", ["ViT-Tiny-16", "RN-Tiny"])
def test_lengths_multiply_to_the_logit_scale(network):
    cfg = config("clipreid", *ALL, "MODEL.NAME", network)
    method, batch = build(cfg).eval(), toy_batch(cfg)
    sentences = [f"a {word} hand" for word in ("left", "right", "large", "small", "young", "old", "fair", "dark")]
    with torch.no_grad():
        method.alignment.logit_scale.fill_(2.5)
        before = {"image": method(batch)["projected"], "text": method.sentence_features(sentences)}
        method.finish_alignment(before["image"], before["text"])
        after = {"image": method(batch)["projected"], "text": method.sentence_features(sentences)}
    product = after["image"].norm(dim=1).mean() * after["text"].norm(dim=1).mean()
    assert float(product) == pytest.approx(float(torch.tensor(2.5).exp()), rel=1e-3)
    for tower, rows in before.items():
        assert F.cosine_similarity(after[tower], rows).min() > 0.999


def test_the_prompt_reads_the_trained_words():
    method = build(config("clipreid", *ALL))
    with torch.no_grad():
        method.alignment.token_embedding.add_(1.0)
    stale = method.prompt_learner.token_prefix.clone()
    method.finish_alignment(torch.randn(8, 32), torch.randn(8, 32))
    tokens = tokenize(method.sentence)[0]
    prefix = method.prompt_learner.token_prefix
    assert torch.equal(prefix[0], method.alignment.token_embedding[tokens[: prefix.shape[1]]])
    assert not torch.equal(prefix, stale)


def test_the_logit_scale_is_clamped(tmp_path):
    cfg = config("clipreid", *ALL, "SOLVER.STAGE0.MAX_SCALE", "20.0")
    method, step, _, batch = trained(cfg, stage_of(cfg), tmp_path)
    with torch.no_grad():
        method.alignment.logit_scale.fill_(9.0)
    assert float(step(batch, AT).shown["scale"]) == pytest.approx(20.0, rel=1e-5)


def test_what_it_writes_is_read_as_clip_weights(tmp_path):
    from safetensors.torch import save_file

    from model.clip.weights import read_clip_weights

    method = build(config("clipreid", *ALL))
    tensors = clip_tensors(method.image_encoder, method.text_encoder, method.alignment)
    save_file(tensors, tmp_path / "clip.safetensors")
    read = read_clip_weights(tmp_path / "clip.safetensors")
    assert read.keys() == tensors.keys()
    start = ("MODEL.PRETRAIN_CHOICE", "imagenet", "MODEL.PRETRAIN_PATH", str(tmp_path / "clip.safetensors"))
    other = build(config("clipreid", *start))
    assert torch.equal(other.text_encoder.text_projection, method.text_encoder.text_projection)


def test_stage_1_and_2_train_what_they_train_without_stage_0():
    cfg, plain = config("clipreid", *ALL), config("clipreid")
    for stage in (1, 2):
        names = []
        for settings in (cfg, plain):
            method = build(settings)
            make_optimizers(settings, method, stage)
            names.append({name for name, p in method.named_parameters() if p.requires_grad})
        assert names[0] == names[1]


def test_captions_that_cannot_be_read():
    with pytest.raises(ReIDError, match=r"takes .* tokens"):
        CaptionReader(lambda path, seed: "", ["very " * 80 + "large hand"])
    with pytest.raises(ReIDError, match="mark where a sentence starts"):
        CaptionReader(lambda path, seed: "", ["a <|endoftext|> hand"])


def test_methods_without_a_text_encoder_have_no_stage_0():
    cfg, _ = load_config("configs/hand/vit_base.yml", ["SOLVER.STAGES", "[0, 2]"])
    with pytest.raises(ReIDError, match=r"SOLVER.STAGES = \[0, 2\]: the stages of MODEL.METHOD baseline are \[2\]"):
        check_method(cfg)


WEIGHED = (*ALL, "SOLVER.STAGE0.ATTRIBUTE_WEIGHT", "0.5")


def test_images_are_classified_by_the_sentences_of_each_attribute_and_linearly():
    """Against a loop over attributes and images, in float64."""
    cfg = config("clipreid", *WEIGHED)
    method, batch = build(cfg), toy_batch(cfg)
    outputs, labels = outputs_of(method, stage_of(cfg), batch)(batch, AT)
    terms, _ = method.losses(outputs, labels, AT)
    alignment, images, loss, first = method.alignment, outputs["projected"].double(), 0.0, 0
    weight, bias = alignment.classifier.weight.double(), alignment.classifier.bias.double()
    for sentences, known in zip(ATTRIBUTES, batch.extra["attributes"].T, strict=True):
        tokens = [row[: row.argmax() + 1] for row in tokenize(sentences)]
        texts = [method.text_encoder(alignment.token_embedding[row][None], len(row) - 1) for row in tokens]
        part = slice(first, first + len(sentences))
        for scores in (
            F.normalize(images) @ F.normalize(torch.cat(texts).double()).T / 0.07,
            images @ weight[part].T + bias[part],
        ):
            own = [float(row.log_softmax(0)[k]) for row, k in zip(scores, known, strict=True) if k >= 0]
            loss -= sum(own) / len(own)
        first += len(sentences)
    assert float(terms["attributes"]) == pytest.approx(0.5 * loss, rel=1e-4)


def test_an_attribute_that_no_image_of_a_batch_shows_adds_nothing():
    cfg = config("clipreid", *WEIGHED)
    method, batch = build(cfg), toy_batch(cfg)
    outputs, _ = outputs_of(method, stage_of(cfg), batch)(batch, AT)
    unknown = torch.full_like(outputs["attributes"], -1)
    loss = method.alignment.attribute_loss(method.text_encoder, outputs["projected"], unknown)
    assert float(loss) == 0


def test_attributes_do_not_change_the_contrast_and_weigh_nothing_at_0():
    cfg = config("clipreid", *WEIGHED)
    method, batch = build(cfg), toy_batch(cfg)
    outputs, labels = outputs_of(method, stage_of(cfg), batch)(batch, AT)
    terms, _ = method.losses(outputs, labels, AT)
    alone, _ = method.losses({name: outputs[name] for name in ("projected", "caption")}, labels, AT)
    assert alone.keys() == {"info_nce"} and torch.equal(alone["info_nce"], terms["info_nce"])
    assert "attributes" not in METHODS["clipreid"].needs(config("clipreid", *ALL), training=True)


def test_the_reader_gives_the_classes_of_the_attributes():
    found = CaptionReader(lambda path, seed: "a left hand", labels=lambda path: [2, -1, 0])("a.png", 3)
    assert found["attributes"].tolist() == [2, -1, 0] and torch.equal(found["caption"], tokenize("a left hand")[0])
