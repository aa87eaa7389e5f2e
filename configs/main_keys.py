"""The keys that are set most, by what they are about, for ``--help`` of training and test."""

DATA = {
    "DATASETS.NAMES": "name of the data set: hand, hand_11k, market1501 ... (docs/datasets.md)",
    "DATASETS.ROOT_DIR": "folder of the data set",
    "INPUT.SIZE_TRAIN": "height and width in pixels, [224, 224]; INPUT.SIZE_TEST in a test",
    "DATALOADER.NUM_WORKERS": "processes that read images",
}
TEST = {
    "TEST.WEIGHT": "checkpoint (.pth, .safetensors) or .onnx file to be tested",
    "TEST.RE_RANKING": "k-reciprocal re-ranking",
    "TEST.FLIP": "add the feature of the mirror image",
    "TEST.AP": "average precision: standard, or trapezoid as in the hand papers",
    "TEST.RUNS": "random query/gallery splits whose mean is given",
}
RUN = {
    "OUTPUT_DIR": "folder of the run",
    "MODEL.DEVICE": "auto, cpu, cuda, cuda:1, mps",
    "SOLVER.SEED": "seed of all random numbers",
}
MODEL = {
    "MODEL.METHOD": "clipreid, baseline ... (docs/methods.md)",
    "MODEL.NAME": "the backbone: ViT-B-16, RN50, timm/<name> ...",
    "MODEL.PRETRAIN_PATH": "file of pre-trained weights; empty: cache or download",
}
SOLVER = {
    "SOLVER.STAGES": "stages to be run, [1, 2]",
    "SOLVER.STAGE2.BASE_LR": "learning rate of stage 2; the keys of stage 1 are SOLVER.STAGE1.*",
    "SOLVER.STAGE2.MAX_EPOCHS": "epochs",
    "SOLVER.STAGE2.IMS_PER_BATCH": "images in a batch",
    "SOLVER.STAGE2.MICRO_BATCHES": "parts of a batch that are encoded in turn, which needs less memory",
    "SOLVER.PRECISION": "auto, fp32, bf16, fp16",
}

TRAINING_KEYS = {"data": DATA, "model": MODEL, "training": SOLVER, "test": TEST, "run": RUN}
TEST_KEYS = {"data": DATA, "model": MODEL, "test": TEST, "run": RUN}
