"""Weights by an address on Hugging Face's hub: from its cache, by its client, and without a network."""

import sys

import huggingface_hub
import pytest
from huggingface_hub.utils import EntryNotFoundError

from configs import load_config
from model import check_weights
from model.clip.clip import find_weights
from model.clip.shapes import named_shape
from utils.errors import ReIDError

COMMIT = "0" * 40


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A cache as the hub's client lays it out, and no network; returns a function that puts a file into the cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))

    def unreachable(*arguments, **options):
        raise OSError("Name or service not known")

    for name in ("get_hf_file_metadata", "hf_hub_download"):
        monkeypatch.setattr(huggingface_hub, name, unreachable)

    def put(repository, file, content=b"x"):
        folder = tmp_path / "cache" / f"models--{repository.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True, exist_ok=True)
        (folder / "refs" / "main").write_text(COMMIT)
        path = folder / "snapshots" / COMMIT / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    return put


@pytest.mark.parametrize("file", ["model.safetensors", "open_clip_pytorch_model.bin"])
def test_a_cached_file_needs_no_network(hub, file):
    path = hub("openai/clip-vit-base-patch16", file)
    assert find_weights("ViT-B-16", "hf://openai/clip-vit-base-patch16") == path
    assert find_weights("ViT-B-16", f"hf://openai/clip-vit-base-patch16@{COMMIT}") == path
    assert find_weights("ViT-B-16", f"hf://openai/clip-vit-base-patch16/{file}") == path


def test_without_a_network_the_message_says_what_to_download_and_where_to_name_it(hub):
    with pytest.raises(ReIDError) as caught:
        find_weights("ViT-B-16", "hf://openai/clip-vit-base-patch16")
    for part in (
        "MODEL.PRETRAIN_PATH = hf://openai/clip-vit-base-patch16",
        "Name or service not known",
        "huggingface.co/openai/clip-vit-base-patch16/tree/main",
        "Download model.safetensors and config.json",
    ):
        assert part in str(caught.value)


def test_the_first_file_that_the_repository_has_is_downloaded_with_its_configuration(hub, monkeypatch):
    asked = []

    def metadata(url):
        asked.append(url.rpartition("/")[2])
        if not url.endswith("open_clip_model.safetensors"):
            raise EntryNotFoundError("404")

    def download(repository, file, revision):
        assert revision is None
        if file == "config.json":
            raise EntryNotFoundError("404")
        return str(hub(repository, file))

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", metadata)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    path = find_weights("ViT-B-32", "hf://laion/CLIP-ViT-B-32")
    assert path.name == "open_clip_model.safetensors" and (path.parent / "open_clip_config.json").is_file()
    assert asked == ["model.safetensors", "open_clip_model.safetensors"]
    with pytest.raises(ReIDError, match=r"it has no tf_model.h5"):
        find_weights("ViT-B-32", "hf://laion/CLIP-ViT-B-32/tf_model.h5")


@pytest.mark.parametrize("address", ["hf://", "hf://owner", "hf://a b/c", "hf:///name", "hf://owner/../../etc@x y"])
def test_wrong_addresses(hub, address):
    with pytest.raises(ReIDError, match="expected hf://owner/name"):
        find_weights("ViT-B-16", address)


def test_the_package_is_optional(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ReIDError, match="pip install huggingface_hub"):
        find_weights("ViT-B-16", "hf://openai/clip-vit-base-patch16")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("resnet50", "CLIP's ResNet is RN50; ImageNet's is timm/resnet50"),
        ("ResNet101", "CLIP's ResNet is RN101"),
        ("openai/clip-vit-base-patch16", "MODEL.PRETRAIN_PATH hf://openai/clip-vit-base-patch16; .* ViT-B-16"),
        ("laion/CLIP-ViT-H-14-laion2B-s32B-b79K", "hf://laion/CLIP-ViT-H-14-laion2B-s32B-b79K; .* ViT-H-14"),
        ("somebody/strange", r"hf://somebody/strange; MODEL.NAME is its architecture\."),
        ("vit_base_patch16_clip_224", "Did you mean ViT-B-16"),
        ("vit-b-16", "Did you mean ViT-B-16"),
        ("ViT-B-61", "Did you mean ViT-B-16"),
        ("RN-Tyni", "Did you mean RN-Tiny"),
        ("efficientnet_b0", "or timm/<a backbone of timm>"),
    ],
)
def test_unknown_names_of_networks(name, hint, tmp_path):
    """The same message wherever the name is looked up, with or without weights."""
    for look in (named_shape, lambda n: find_weights(n, cache_dir=tmp_path)):
        with pytest.raises(ReIDError, match=f"MODEL.NAME = '{name}': choose one of.*{hint}"):
            look(name)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("openai/clip-vit-base-patch16", "MODEL.PRETRAIN_PATH hf://openai/clip-vit-base-patch16"),
        ("vit_base_patch16", "Did you mean ViT-B-16"),
        ("resnet-tini", "Did you mean resnet-tiny"),
        ("ResNet101", "CLIP's ResNet is RN101; ImageNet's is timm/resnet101"),
    ],
)
@pytest.mark.parametrize("choice", ["random", "imagenet"])
def test_a_run_with_an_unknown_name_ends_with_that_message_before_any_data_is_read(name, hint, choice):
    cfg, _ = load_config(None, ["MODEL.NAME", name, "MODEL.PRETRAIN_CHOICE", choice])
    with pytest.raises(ReIDError, match=f"MODEL.NAME = '{name}': choose one of .*{hint}"):
        check_weights(cfg)
