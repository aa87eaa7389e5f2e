"""TransReID and its baseline against the published code (damo-cv/TransReID@dec5504), see the kits' READMEs."""

import re
from functools import cache, partial

import torch
import torch.nn.functional as F

from loss import Criterion, TripletLoss
from model.backbones.vit import Block
from model.base import Batch, Progress
from model.clip.positions import resize_positions
from model.methods.baseline import SideInformation
from model.methods.local import weighted
from model.methods.transreid import TransReID, jigsaw_groups, shuffled
from solver.lr_scheduler import cosine_lr
from tests.parity.methods.kit import Golden, load_published
from tests.parity.methods.vits import backbone_of, soft_margin, without_random_start

AT = Progress(2, 1, 1)


def golden_numbers(kit):
    golden = Golden(kit)
    meta = golden.meta if golden.folder.is_dir() else {}

    @cache
    def built():
        """The method with the kit's weights, and own names by published ones; evaluations leave it as it is."""
        state = golden.state("manifest")
        side_length = state["base.patch_embed.proj.weight"].shape[-1]
        groups = None
        with without_random_start():
            backbone = backbone_of(state, meta["heads"], side_length, meta["input_size"], meta["stride"], "base.")
            if meta["jpm"]:
                patches = backbone.grid[0] * backbone.grid[1]
                groups = jigsaw_groups(patches, meta["shift"], meta["shuffle_groups"], meta["divide"])
            side = None
            if meta["sie_camera"] or meta["sie_view"]:
                side = SideInformation(meta["sie_camera"], meta["sie_view"], meta["sie_coe"])
            method = TransReID(
                backbone, meta["num_classes"], jigsaw=groups, side_information=side, criterion=soft_margin()
            )
        return method, load_published(method, state) | {"base.sie_embed": "cv_embed"}

    def batch(name):
        images = golden.input(name)
        labels = [meta[key] and torch.tensor(meta[key])[: len(images)] for key in ("cam_label", "view_label")]
        return Batch(images, cameras=labels[0], views=labels[1])

    @cache
    @torch.no_grad()
    def evaluated():
        method = built()[0].eval()
        encoder, given = method.image_encoder, batch("image")
        seen = {}
        hooks = [
            encoder.patch_embed.register_forward_hook(lambda *call: seen.update(patches=call[2])),
            encoder.blocks[-1].register_forward_pre_hook(lambda _, inputs: seen.update(tokens=inputs[0])),
        ]
        outputs = method(given)
        for hook in hooks:
            hook.remove()
        before = method.embed(outputs)
        method.neck_feat = "after"
        return {
            "backbone_cls": outputs["feature"],
            "tokens_slice": seen["tokens"],
            "patch_embed_slice": seen["patches"],
            "feat_before": before,
            "feat_normalised": F.normalize(before),
            "feat_after": method.embed(outputs),
        }

    @cache
    def trained():
        evaluated()  # before the statistics of the necks change
        method, own = built()
        scores = []
        for name, module in method.named_children():
            if name.startswith("classifier"):
                module.register_forward_hook(lambda *call: scores.append(call[2].detach()))
        method.train()
        outputs, labels = method(batch("train_image"), AT), golden.labels("train_labels")
        terms, _ = method.losses(outputs, labels, AT)
        loss = sum(terms.values())
        loss.backward()
        tensors = dict(method.named_parameters()) | dict(method.named_buffers())
        local = outputs["local"].unbind(1) if meta["jpm"] else []
        found = {"loss": loss[None]}
        found |= {f"score_{k}": score for k, score in enumerate(scores)}
        found |= {f"feat_{k}": feature for k, feature in enumerate([outputs["feature"], *local])}
        found["grads"] = {name: tensors[key].grad for name, key in own.items() if key in tensors}
        found["after"] = {name: tensors[key] for name, key in own.items() if key in tensors}
        return found

    @golden.array(r"eval\.(.+)")
    def _(name):
        return evaluated()[name]

    @golden.array(r"train\.(loss|score_\d|feat_\d)")
    def _(name):
        return trained()[name]

    @golden.array(r"(train\.grad\..+)")
    def _(name):
        return trained()["grads"][golden.source(name)]

    @golden.array(r"(train\.after\..+)")
    def _(name):
        return trained()["after"][golden.source(name)]

    @golden.array(r"train\.grad_lognorms")
    def _():
        grads = trained()["grads"]
        assert not set(meta["no_grad_names"]) & {name for name, grad in grads.items() if grad is not None}
        return torch.stack([grads[name].norm().log() for name in meta["grad_names"]])

    @golden.array(r"tiny\.(.+)")
    @torch.no_grad()
    def _(case):
        state, tiny = golden.state(f"manifest_tiny_{case}"), meta["tiny"]
        images = golden.input("tiny_image")
        backbone = backbone_of(state, tiny["heads"], tiny["patch"], images.shape[-2:], tiny["stride"])
        cameras, views = tiny["cases"][case]
        options = {"jigsaw": None}
        if cameras or views:
            options["side_information"] = SideInformation(cameras, views, tiny["sie_coe"])
        method = TransReID(backbone, 1, **options)
        if cameras or views:
            method.cv_embed.copy_(TransReID.rename({"base.sie_embed": state.pop("sie_embed")})["cv_embed"])
        report = backbone.load(state)
        assert set(report.skipped) == {"fc.weight", "fc.bias"}
        labels = [torch.tensor(tiny[name]) for name in ("cam_label", "view_label")]
        return method.eval()(Batch(images, cameras=labels[0], views=labels[1]))["feature"]

    @golden.array(r"small_tokens\.(block|norm)")
    @torch.no_grad()
    def _(part):
        state, x = golden.state("manifest_small_tokens"), golden.input("small_tokens")
        module = Block(x.shape[-1], meta["small_tokens"]["heads"])
        if part == "norm":
            module = module.norm1
        module.load_state_dict({name.removeprefix(f"{part}."): t for name, t in state.items() if name.startswith(part)})
        return module(x)

    @golden.array(r"shuffle\.(.+)")
    def _(case):
        return torch.tensor(shuffled(*meta["shuffle"][case]))

    @golden.array(r"posembed\.(\d+)x(\d+)")
    def _(rows, columns):
        return resize_positions(golden.input("pos197")[0], (int(rows), int(columns)))[None]

    def loss_of(kind):
        """The loss of one kind on leaf tensors, and these."""
        labels = golden.labels("loss_labels")
        leaf = cache(lambda name: golden.input(name).requires_grad_())
        if kind.startswith("triplet"):
            margin = None if kind.endswith("soft") else meta["triplet_margin_m03"]
            return TripletLoss(margin)(leaf("triplet_in"), labels)[None], leaf
        total, smooth = re.fullmatch(r"total_(jpm|single)_smooth_(on|off)", kind).groups()
        criterion = Criterion(label_smoothing=meta["label_smoothing_on"] if smooth == "on" else 0.0, margin=None)

        def terms_of(*numbers):
            return criterion([leaf(f"score_{k}") for k in numbers], [leaf(f"feat_{k}") for k in numbers], labels)

        terms = terms_of(0)
        if total == "jpm":
            terms = weighted(terms, terms_of(*range(1, 1 + meta["divide"])), meta["divide"], 0.5)
        return sum(terms.values())[None], leaf

    @golden.array(r"loss\.(triplet_soft|triplet_m03|total_\w+_smooth_(?:on|off))")
    def _(kind):
        return loss_of(kind)[0]

    @golden.array(r"loss\.(triplet_soft|triplet_m03|total_\w+_smooth_(?:on|off))\.grad(?:_(\w+))?")
    def _(kind, name):
        loss, leaf = loss_of(kind)
        return torch.autograd.grad(loss.sum(), leaf(name or "triplet_in"))[0]

    @golden.array(r"loss\.triplet\.dist_(ap|an)")
    def _(pair):
        nearest = TripletLoss().hardest_distances(golden.input("triplet_in"), golden.labels("loss_labels"))
        return nearest[("ap", "an").index(pair)]

    @golden.array(r"lr\..+")
    def _():
        lr = meta["lr"]
        schedule = partial(
            cosine_lr,
            num_epochs=lr["epochs"],
            lr_min=lr["min"],
            warmup_lr_init=lr["start"],
            warmup_t=lr["warmup_epochs"],
        )
        bases = lr["base"], lr["base"] * lr["bias_factor"]
        return torch.tensor([[schedule(e, base) for base in bases] for e in range(1, lr["epochs"] + 1)])

    return golden


test_transreid = golden_numbers("transreid").test()
test_baseline = golden_numbers("vit_base").test()
