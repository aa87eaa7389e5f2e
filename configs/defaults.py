"""Every configuration key with its default, meaning, unit and choices.

Keys of the published CLIP-ReID code keep their names and meaning; those marked ``(ours)`` are new.
"""

from yacs.config import CfgNode

_C = CfgNode()

# ---------------------------------------------------------------------------------------------------- model
_C.MODEL = CfgNode()
_C.MODEL.METHOD = "clipreid"  # (ours) name of a method, see docs/methods.md

_C.MODEL.DEVICE = "auto"  # auto | cuda | mps | cpu; auto takes the first of these that the machine has
_C.MODEL.DEVICE_ID = "0"  # number of the GPU among the visible ones
_C.MODEL.NAME = "ViT-B-16"  # architecture of model/clip/shapes.py, or timm/<any backbone of timm> (baseline, zeroshot)
_C.MODEL.PRETRAIN_PATH = ""  # file of weights (CLIP, timm) or CLIP-ReID checkpoint, or hf://owner/name; empty: download
_C.MODEL.PRETRAIN_CHOICE = "imagenet"  # imagenet (the published word for pre-trained CLIP weights) | random
_C.MODEL.ACTIVATION = "quick_gelu"  # (ours) of the transformers: quick_gelu (OpenAI) | gelu (open_clip's laion weights)
_C.MODEL.STAGE1_WEIGHT = ""  # (ours) checkpoint whose learned prompts stage 2 starts from when stage 1 is not run
_C.MODEL.PROMPT = ""  # (ours) sentence around learnable tokens, one X each; empty: the data set's own, 4 (handid: 1)
_C.MODEL.ONE_STAGE = False  # (ours) clipreid: learn the prompts together with the image encoder, in stage 2 alone
_C.MODEL.TEXT_LOSS = "i2tce"  # (ours) clipreid, stage 2: none | i2t | i2t+t2i | i2tce | i2tce+t2i, see docs/methods.md
_C.MODEL.TEXT_CONTROL = "none"  # (ours) clipreid: none | shuffled: stage 2 with the sentences of other identities
_C.MODEL.STRIDE_SIZE = [16, 16]  # step of the ViT's patches in pixels (rows, columns); [12, 12] overlaps them (OLP)
_C.MODEL.POSITION_GRID = [0, 0]  # (ours) rows, columns of patches that a file was trained with, if it records none
_C.MODEL.SIE_CAMERA = False  # side information embedding of the camera (ViT)
_C.MODEL.SIE_VIEW = False  # side information embedding of the view: vehicle side, hand aspect (ViT)
_C.MODEL.SIE_COE = 3.0  # factor of the side information embedding; the paper's recipe is 1.0
_C.MODEL.SIE_ON = "cls"  # (ours) add it to the class token alone (cls, published) or to all tokens (all, TransReID)
_C.MODEL.ID_LOSS_TYPE = "softmax"  # softmax | arcface | cosface | amsoftmax | circle
_C.MODEL.ID_LOSS_WEIGHT = 1.0  # weight of the ID loss
_C.MODEL.METRIC_LOSS_TYPE = "triplet"  # triplet | center | triplet_center
_C.MODEL.TRIPLET_LOSS_WEIGHT = 1.0  # weight of the triplet loss
_C.MODEL.I2T_LOSS_WEIGHT = 1.0  # weight of the image-to-text cross-entropy, of other losses with texts, of tfmemory's
_C.MODEL.MEMORY_LOSS_WEIGHT = 1.0  # (ours) pcl: weight of the contrast with the identities' centroids
_C.MODEL.MEMORY_MOMENTUM = 0.2  # (ours) pcl: share of the old centroid that stays when a batch moves it
_C.MODEL.MEMORY_TEMPERATURE = 0.05  # (ours) pcl: of the contrast
_C.MODEL.FREEZE_PATCHES = False  # (ours) pcl: the patch convolution of the ViT does not train
_C.MODEL.MEMORY_REBUILD = True  # (ours) pcl: new centroids from all images before each epoch; False: before the first
_C.MODEL.IF_WITH_CENTER = "no"  # yes adds the center loss to METRIC_LOSS_TYPE
_C.MODEL.NO_MARGIN = False  # soft-margin triplet loss in place of SOLVER.MARGIN
_C.MODEL.COOP = CfgNode()
_C.MODEL.COOP.CONTEXT = 16  # (ours) coop: learned vectors in front of a class's name
_C.MODEL.COOP.CLASS_SPECIFIC = False  # (ours) coop: each class has its own vectors; otherwise they share them
_C.MODEL.COOP.POSITION = "end"  # (ours) coop: the name stands at the end | in the middle of the vectors
_C.MODEL.COOP.INIT = ""  # (ours) coop: words that the vectors start from, such as "A photo of"; empty: random
_C.MODEL.COOP.NAMES = "identity"  # (ours) coop: classes are called by identity | attributes (hand_11k)
_C.MODEL.MBA_NET = CfgNode()
_C.MODEL.MBA_NET.POSITIONS = "value"  # (ours) mba_net, positional term: value (released code) | axial | none
_C.MODEL.MBA_NET.DROPOUT = 0.5  # (ours) mba_net: in front of the classifiers
_C.MODEL.LAGA_NET = CfgNode()
_C.MODEL.LAGA_NET.PARTS = 3  # (ours) laga_net: horizontal stripes of the plain branch
_C.MODEL.LAGA_NET.POSITIONS = "value"  # (ours) laga_net, positional term: value (released code) | axial | none
_C.MODEL.LAGA_NET.DROPOUT = 0.5  # (ours) laga_net: in front of the classifiers
_C.MODEL.RGA_NET = CfgNode()
_C.MODEL.RGA_NET.BRANCH = "both"  # (ours) rga_net, attention: both (RGA-SC) | spatial (RGA-S) | channel (RGA-C)
_C.MODEL.PCB = CfgNode()
_C.MODEL.PCB.PARTS = 6  # (ours) pcb: horizontal stripes
_C.MODEL.PCB.STRIPES = "even"  # (ours) pcb: even heights only | overlap (released code) | adaptive (torchreid) windows
_C.MODEL.PCB.REDUCED = 256  # (ours) pcb: channels behind the shared reduction
_C.MODEL.PCB.DROPOUT = 0.5  # (ours) pcb: in front of the reduction and of RPP's part classifier
_C.MODEL.PCB.RPP = False  # (ours) pcb: refined part pooling; stage 1 trains PCB, stage 2 everything
_C.MODEL.PCB.MASK_EPOCHS = 0  # (ours) pcb: first epochs of stage 2 that train RPP's part classifier alone
_C.MODEL.CAL = CfgNode()
_C.MODEL.CAL.MAPS = 8  # (ours) cal: attention maps
_C.MODEL.CAL.FEATURE = "score"  # (ours) cal, test feature: score (class logits, published) | neck (behind the BNNeck)
_C.MODEL.CAL.SMOOTHING_CLASSES = 0  # (ours) cal: label smoothing divides by this; 0: identities; released code: 751
_C.MODEL.MGN = CfgNode()
_C.MODEL.MGN.REDUCED = 256  # (ours) mgn: channels behind the reductions
_C.MODEL.MGN.SHARED_REDUCTION = False  # (ours) mgn: one reduction for all eight vectors in place of one each
_C.MODEL.MGN.CE_DIM = 256  # (ours) mgn: classifiers of whole maps read 256 (reduced, public code) | 2048 (paper)
_C.MODEL.OSNET = CfgNode()
_C.MODEL.OSNET.FROZEN_EPOCHS = 10  # (ours) osnet: first epochs that train the classifier alone; random weights: none
_C.MODEL.ABDNET = CfgNode()
_C.MODEL.ABDNET.DROPOUT = 0.5  # (ours) abdnet: on the global vector
_C.MODEL.ABDNET.HEAD_DROPOUT = 0.1  # (ours) abdnet: on channels of the attention heads
_C.MODEL.ABDNET.OF_BETA = 1e-6  # (ours) abdnet: weight of the penalty on eigenvalues of maps
_C.MODEL.ABDNET.OF_EPOCH = 24  # (ours) abdnet: first epoch of stage 2 with that penalty
_C.MODEL.ABDNET.OW_BETA = 1e-3  # (ours) abdnet: weight of the penalty on eigenvalues of weights
_C.MODEL.ABDNET.OW = "stem"  # (ours) abdnet: it reads the stem (released code) | all convolutions (paper) | none
_C.MODEL.CBDB_NET = CfgNode()
_C.MODEL.CBDB_NET.STRIPS = 6  # (ours) cbdb_net: strips of the map, of which one is dropped at a time
_C.MODEL.CBDB_NET.DROP = "three quarters"  # (ours) cbdb_net, of a strip: three quarters (released code) | whole (paper)
_C.MODEL.CBDB_NET.REDUCED = 512  # (ours) cbdb_net: channels of the feature
_C.MODEL.CBDB_NET.ELASTIC = False  # (ours) cbdb_net: elastic weights of the triplet loss, as far as they are known
_C.MODEL.CBDB_NET.EXTRA_WEIGHT = 1e-5  # (ours) cbdb_net: weight of the released code's second triplet loss
_C.MODEL.CDNET = CfgNode()
_C.MODEL.CDNET.REDUCED = 128  # (ours) cdnet: channels of each of the two stripes
_C.MODEL.CDNET.DROPOUT = 0.2  # (ours) cdnet: on both features, in front of the triplet losses too
_C.MODEL.IF_LABELSMOOTH = "on"  # on | off: label smoothing 0.1 in the ID and image-to-text losses
_C.MODEL.DROP_PATH = 0.1  # (ours) vit_*, deit_*: stochastic depth of the last block; it rises linearly from 0
_C.MODEL.TRANSREID = CfgNode()
_C.MODEL.TRANSREID.JPM = True  # (ours) transreid: jigsaw with local features; False: the paper's baseline
_C.MODEL.TRANSREID.SHIFT = 5  # (ours) transreid: patches are rotated by SHIFT - 1; 8 for square images (vehicles)
_C.MODEL.TRANSREID.GROUPS = 2  # (ours) transreid: so many equal pieces of the patches are interleaved
_C.MODEL.TRANSREID.PARTS = 4  # (ours) transreid: local features
_C.MODEL.DCAL = CfgNode()
_C.MODEL.DCAL.RATIO = 0.3  # (ours) dcal: share of the patches that query in global-local cross-attention
_C.MODEL.AAFORMER = CfgNode()
_C.MODEL.AAFORMER.PARTS = 5  # (ours) aaformer: part tokens
_C.MODEL.AAFORMER.EPS = 0.05  # (ours) aaformer: weight of the entropy in the transport of patches to parts
_C.MODEL.AAFORMER.ITERATIONS = 3  # (ours) aaformer: of the transport
_C.MODEL.AAFORMER.SIMILARITY = "projected"  # (ours) aaformer: of a block's queries and keys (projected) | of its tokens
_C.MODEL.AAFORMER.GLOBAL_WEIGHT = 0.5  # (ours) aaformer: weight of the class token's losses; the parts have the rest
_C.MODEL.AAFORMER.DIVIDE = True  # (ours) aaformer: divide the part features by PARTS in the test feature
_C.MODEL.PROMPTSG = CfgNode()
_C.MODEL.PROMPTSG.TEMPERATURE = 0.07  # (ours) promptsg: of the contrast between images and sentences
_C.MODEL.PROMPTSG.REDUCTION = "mean"  # (ours) promptsg: mean | sum over the positives of an image
_C.MODEL.PROMPTSG.CONTRAST_WEIGHT = 0.5  # (ours) promptsg: weight of the contrast
_C.MODEL.PROMPTSG.TEST = "composed"  # (ours) promptsg: test with each image's own sentence (composed) | a fixed one
_C.MODEL.PROMPTSG.CONCATENATE = False  # (ours) promptsg: append CLIP's image features to the test feature
_C.MODEL.CLIP_REIDENT = CfgNode()
_C.MODEL.CLIP_REIDENT.LAYER_DECAY = 1.0  # (ours) clip_reident: factor on the rate from each block to the one below it
_C.MODEL.CILP_FGDI = CfgNode()
_C.MODEL.CILP_FGDI.DOMAIN_EPOCHS = 30  # (ours) cilp_fgdi: last epochs of stage 1, for tokens of domains; 0: no domains
_C.MODEL.CILP_FGDI.DOMAIN_LR = 0.01  # (ours) cilp_fgdi: learning rate of the domain classifiers
_C.MODEL.CILP_FGDI.APN = "euclidean"  # (ours) cilp_fgdi, distance to texts in stage 2: euclidean | cosine | released
_C.MODEL.CILP_FGDI.APN_WEIGHT = 0.1  # (ours) cilp_fgdi: its weight b; i2tce has 1 - b
_C.MODEL.CILP_FGDI.INSTANCE_NORM = True  # (ours) cilp_fgdi: normalise each image by its own mean and deviation

# ---------------------------------------------------------------------------------------------------- input
_C.INPUT = CfgNode()
_C.INPUT.SIZE_TRAIN = [256, 128]  # height and width of the training images in pixels
_C.INPUT.SIZE_TEST = [256, 128]  # height and width of the test images; must equal SIZE_TRAIN
_C.INPUT.RESIZE = [0, 0]  # (ours) size that training images get before the crop of SIZE_TRAIN; [0, 0]: SIZE_TRAIN
_C.INPUT.PROB = 0.5  # probability of a horizontal flip
_C.INPUT.ROTATION = 0.0  # (ours) largest random rotation of training images in degrees, either way
_C.INPUT.COLOR_JITTER = 0.0  # (ours) largest random change of brightness, contrast and saturation, as a share
_C.INPUT.RE_PROB = 0.5  # probability of random erasing
_C.INPUT.PADDING = 10  # black border added before the random crop, in pixels
_C.INPUT.PIXEL_MEAN = [0.485, 0.456, 0.406]  # per channel, subtracted from the image in [0, 1]
_C.INPUT.PIXEL_STD = [0.229, 0.224, 0.225]  # per channel, the image is divided by it
_C.INPUT.INTERPOLATION_TRAIN = "bicubic"  # (ours) nearest | bilinear | bicubic | lanczos
_C.INPUT.INTERPOLATION_TEST = "bilinear"  # (ours) likewise; used for stage 1's features too
_C.INPUT.FIT_TEST = "stretch"  # (ours) stretch | crop: scale to cover SIZE_TEST and cut out the centre, as CLIP does
_C.INPUT.EXIF = False  # (ours) turn photos upright as their EXIF orientation says (phones write it)
_C.INPUT.MIRROR = ""  # (ours) images that are mirrored everywhere: left | right | a view | "dorsal left" | all | none
_C.INPUT.WHITE = "auto"  # (ours) value of white in grey files of more than 8 bits; auto: as the format states it
_C.INPUT.JPEG_DRAFT = False  # (ours) decode JPEGs at 1/2, 1/4 or 1/8 before resizing: faster, but not bit-exact

# ------------------------------------------------------------------------------------------------- datasets
_C.DATASETS = CfgNode()
_C.DATASETS.NAMES = "market1501"  # which data set, see docs/datasets.md
_C.DATASETS.ROOT_DIR = "data"  # folder of the data set or the one above it
_C.DATASETS.CAMERA_RULE = "auto"  # (ours) auto: the data set's own | market: same person, same camera ignored | none
_C.DATASETS.LISTING = ""  # (ours) CSV or JSON file of the data set `listing`; empty: listing.csv in ROOT_DIR
_C.DATASETS.PATTERN = ""  # (ours) pattern: regular expression over the paths below ROOT_DIR, with named groups
_C.DATASETS.IDENTITY = ""  # (ours) pattern: rule over groups, such as (number - 1) // 10; empty: person + side + finger
_C.DATASETS.CAMERA = ""  # (ours) pattern: group, or rule, that is the camera; empty: camera, else session, else none
_C.DATASETS.KEEP = ""  # (ours) pattern: only images with these values of groups, such as {view: PALMAR, sample: 1-6}
_C.DATASETS.PROTOCOL = "auto"  # (ours) pattern, listing: open | closed | all_pairs | fvc | pairs, see docs/datasets.md
_C.DATASETS.TRAIN = ""  # (ours) pattern: values of groups that train, such as {person: 1-150} or {person: 50%}
_C.DATASETS.ENROL = ""  # (ours) pattern: values of groups that are in the gallery, such as {session: 1}
_C.DATASETS.PROBE = ""  # (ours) pattern: values of groups that are queries, such as {session: 2}
_C.DATASETS.PAIRS = ""  # (ours) file of the pairs that are compared (protocol pairs), relative to ROOT_DIR
_C.DATASETS.KEYPOINTS = ""  # (ours) file of key points, CSV or NPZ; empty: keypoints.csv in the data set's folder
_C.DATASETS.ASPECT = "dorsal right"  # (ours) hand_11k: dorsal|palmar right|left, or all
_C.DATASETS.GALLERY = "all"  # (ours) hand_11k, hand_hd: all (published, with distractors) | aspect (own images only)
_C.DATASETS.RUN = 0  # (ours) first of the random query/gallery splits to test: 0..9 (hand sets, vehicleid)
_C.DATASETS.SPLIT_SEED = 0  # (ours) seed of those splits, and of shares of people
_C.DATASETS.FOLDS = 0  # (ours) hand, listing: divide all people into so many groups and test one, FOLD; 0: no folds
_C.DATASETS.FOLD = 0  # (ours) which group is tested, from 0; the others train
_C.DATASETS.PERSON_SEPARATOR = ""  # (ours) folds: what follows the person in an identity's name (_ of 007_left)
_C.DATASETS.TRAIN_FRACTION = 1.0  # (ours) share of the training set that trains, for learning curves
_C.DATASETS.TRAIN_FRACTION_BY = "ids"  # (ours) ids: a share of the identities | images: that share of each one's images
_C.DATASETS.TRAIN_FRACTION_SEED = 0  # (ours) seed of that choice; larger shares hold smaller ones
_C.DATASETS.HOLD_OUT = False  # (ours) hand_11k, hand_hd: hold images out of training and choose the best epoch by them
_C.DATASETS.TEST_SIZE = 800  # (ours) vehicleid: 800 | 1600 | 2400 test identities
_C.DATASETS.CHECK_IMAGES = True  # (ours) decode every image once before training, so that a broken one shows at once
_C.DATASETS.BAD_IMAGES = "error"  # (ours) error: stop at unreadable images | skip: leave them out, counted and named
_C.DATASETS.CACHE = "ram"  # (ours) none | ram | disk: keep decoded, resized images; batches are the same bit for bit
_C.DATASETS.CACHE_GB = 4.0  # (ours) most that it takes, in GiB (ram: for each process; disk: all of CACHE_DIR)
_C.DATASETS.CACHE_DIR = ""  # (ours) folder of the disk cache; empty: clipreid/images in the user's cache folder
_C.DATASETS.SYNTHETIC = CfgNode()
_C.DATASETS.SYNTHETIC.TRAIN_IDS = 64  # (ours) hands drawn for training
_C.DATASETS.SYNTHETIC.TEST_IDS = 32  # (ours) hands drawn for the test
_C.DATASETS.SYNTHETIC.IMAGES_PER_ID = 10  # (ours) pictures of each hand
_C.DATASETS.SYNTHETIC.SIZE = 128  # (ours) side of the square pictures in pixels
_C.DATASETS.SYNTHETIC.SEED = 0  # (ours) seed of the drawing

# ----------------------------------------------------------------------------------------------- dataloader
_C.DATALOADER = CfgNode()
_C.DATALOADER.NUM_WORKERS = 8  # processes that read images; never more than the machine has cores
_C.DATALOADER.SAMPLER = "softmax"  # softmax: shuffled | softmax_triplet: PK | triplet: PK, no ID loss | pairs: InfoNCE
_C.DATALOADER.DROP_LAST = False  # (ours) softmax: leave out the last batch of an epoch if it is not full
_C.DATALOADER.NUM_INSTANCE = 4  # K: images of one identity in a PK batch

# --------------------------------------------------------------------------------------------------- solver
_C.SOLVER = CfgNode()
_C.SOLVER.SEED = 1234  # of everything random
_C.SOLVER.MARGIN = 0.3  # of the triplet loss
_C.SOLVER.STAGES = [1, 2]  # (ours) which stages to run
_C.SOLVER.DETERMINISTIC = False  # (ours) same bits in each run on GPUs too, see docs/reproducibility.md
_C.SOLVER.PRECISION = "auto"  # (ours) fp32 (exact) | bf16, fp16 (round) | auto: bf16 where the device has it
_C.SOLVER.GRAD_CHECKPOINTING = False  # (ours) compute transformer blocks again in the backward pass: less memory, exact
_C.SOLVER.CHANNELS_LAST = False  # (ours) ResNets: colours beside each other in memory; sums in another order
_C.SOLVER.SYNC_BN = False  # (ours) ResNets in several processes: BatchNorm by the images of all, as in one process
_C.SOLVER.COMPILE = False  # (ours) torch.compile for the encoders: slow to start, rounds otherwise


def _stage() -> CfgNode:
    """The keys that all stages have."""
    stage = CfgNode()
    stage.IMS_PER_BATCH = 64  # images per batch
    stage.OPTIMIZER_NAME = "Adam"  # Adam | AMSGrad (Adam with the largest second moment so far) | AdamW | SGD
    stage.MAX_EPOCHS = 100  # how many epochs
    stage.BASE_LR = 3e-4  # learning rate
    stage.MOMENTUM = 0.9  # of SGD
    stage.WEIGHT_DECAY = 5e-4  # of everything but biases
    stage.SCHEDULER = "cosine"  # (ours) cosine | multistep | polynomial
    stage.WARMUP_EPOCHS = 5  # cosine, polynomial: epochs of warm-up
    stage.WARMUP_LR_INIT = 1e-5  # cosine, polynomial: the warm-up starts from it, at most BASE_LR (published: 0.01)
    stage.LR_MIN = 1.6e-5  # cosine, polynomial: learning rate at the end, at most BASE_LR
    stage.POWER = 2.0  # (ours) polynomial: of the way that is left to LR_MIN
    stage.CYCLES = [0]  # (ours) cosine: lengths of several schedules, one after the other; [0]: one of MAX_EPOCHS
    stage.EPOCH_OFFSET = 0  # (ours) the schedule starts as if so many epochs had passed, those of an earlier stage
    stage.STEPS = [40, 70]  # multistep: epochs at which the learning rate falls
    stage.GAMMA = 0.1  # multistep: by this factor
    stage.WARMUP_ITERS = 10  # multistep: epochs of warm-up (the published name says iterations, and means epochs)
    stage.WARMUP_FACTOR = 0.01  # multistep: share of the learning rate that the warm-up starts from
    stage.WARMUP_METHOD = "linear"  # multistep: linear | constant
    stage.CLIP_GRAD = 0.0  # (ours) largest norm of all gradients of a step together; 0: not clipped
    stage.CHECKPOINT_PERIOD = 10  # save the model every so many epochs; it is always saved at the end
    stage.LOG_PERIOD = 100  # log every so many iterations
    stage.STEP_EACH = "epoch"  # (ours) the schedule changes the rates each epoch | iteration
    stage.MICRO_BATCHES = 1  # (ours) gradient caching in so many parts: less memory; exact but for a ResNet's BN
    stage.WEIGHT_DECAY_BIAS = 5e-4  # of biases
    stage.BIAS_LR_FACTOR = 1.0  # learning rate of biases, in units of BASE_LR
    stage.NEW_LR_FACTOR = 1.0  # (ours) learning rate of what is not CLIP's own, in units of BASE_LR
    stage.LARGE_FC_LR = False  # twice the learning rate for the classifiers
    stage.CENTER_LR = 0.5  # learning rate of the centers of the center loss
    stage.EVAL_PERIOD = 10  # evaluate every so many epochs; the end is always evaluated
    return stage


_C.SOLVER.STAGE0 = _stage()
_C.SOLVER.STAGE1 = _stage()
_C.SOLVER.STAGE2 = _stage()
_C.SOLVER.STAGE2.SCHEDULER = "multistep"
_C.SOLVER.STAGE2.FREEZE = ""  # (ours) layer2, transformer.resblocks.5: the encoder does not train up to this layer
_C.SOLVER.STAGE2.FREEZE_STATISTICS = False  # (ours) the image encoder's BatchNorms normalise by the start's statistics
_C.SOLVER.STAGE2.HEAD_EPOCHS = 0  # (ours) first epochs that train all but the image encoder (linear probing first)
_C.SOLVER.STAGE2.CENTER_LOSS_WEIGHT = 5e-4  # weight of the center loss
_C.SOLVER.STAGE2.COSINE_MARGIN = 0.5  # margin of the arcface, cosface, amsoftmax and circle losses
_C.SOLVER.STAGE2.COSINE_SCALE = 30.0  # scale of those

# ----------------------------------------------------------------------------------------------------- test
_C.TEST = CfgNode()
_C.TEST.IMS_PER_BATCH = 128  # images per batch
_C.TEST.RUNS = 1  # (ours) random query/gallery splits, or drawings of the enrolled, to average over, from DATASETS.RUN
_C.TEST.VERIFICATION = True  # (ours) also report EER and TAR at FAR, the error rates of yes/no decisions
_C.TEST.FAR = [1e-2, 1e-3, 1e-4]  # (ours) false accept rates (FMR) at which TAR is reported
_C.TEST.THRESHOLDS = []  # (ours) scores at which FMR and FNMR are reported
_C.TEST.THRESHOLD_FROM = ""  # (ours) folder of a run whose thresholds at its FARs are applied here
_C.TEST.BOOTSTRAP = 1000  # (ours) replicates of the subject bootstrap for 95 % intervals; 0: no intervals
_C.TEST.OPEN_SET = 0.0  # (ours) share of the people who are not enrolled in open-set identification; 0: none of it
_C.TEST.FPIR = [0.1, 0.01, 0.001]  # (ours) false positive identification rates at which FNIR is reported
_C.TEST.TEMPLATE = "none"  # (ours) none | gallery | both: join several images of an identity into a template
_C.TEST.TEMPLATE_SIZE = [1, 2, 4]  # (ours) images of a template, one result each
_C.TEST.TEMPLATE_RULE = "mean_feature"  # (ours) mean_feature | best | mean_score: how images of a template are joined
_C.TEST.FUSE = "none"  # (ours) none | mean | logistic: join the scores of a person's hands and fingers
_C.TEST.SCORE_NORM = "none"  # (ours) none | z | t | s | as: score normalisation with training images as cohort
_C.TEST.COHORT_TOP = 0  # (ours) as: cohort images with the highest scores that count; 0: a tenth, 20 to 400
_C.TEST.CALIBRATION = False  # (ours) likelihood ratios, calibrated on training people and kept beside the checkpoint
_C.TEST.GROUPS = []  # (ours) attributes by whose values error rates are reported, such as [gender, skin, age]
_C.TEST.WEIGHT = ""  # checkpoint that test_clipreid.py evaluates; or CLIP weights as they are
_C.TEST.NECK_FEAT = "after"  # before | after: features in front of or behind the BNNeck
_C.TEST.FEATURE = "both"  # (ours) CLIP's networks: image and projected feature side by side (both) | image | projected
_C.TEST.FEAT_NORM = "yes"  # yes | no: L2-normalise the features
_C.TEST.FLIP = False  # (ours) sum the features of the image and its mirror image (hand protocol)
_C.TEST.METRIC = "euclidean"  # (ours) euclidean | cosine
_C.TEST.AP = "standard"  # (ours) standard | trapezoid (the average precision of the hand papers)
_C.TEST.RE_RANKING = False  # k-reciprocal re-ranking
_C.TEST.RERANK_K1 = "auto"  # (ours) its k1; auto: by the gallery's images of an identity, 50 (published) from 10 on
_C.TEST.RERANK_K2 = "auto"  # (ours) its k2; auto: 15 (published) with k1 50, else half of k1
_C.TEST.RERANK_LAMBDA = 0.3  # (ours) share of the original distance
_C.TEST.DIST_MAT = ""  # .npy file of the query x gallery distances (euclidean: squared); a .csv names rows and columns
_C.TEST.SEARCH = "exact"  # (ours) exact | faiss (approximate, with its recall): finds the images of ranking pictures
_C.TEST.BEFORE_TRAINING = False  # (ours) train_clipreid.py also evaluates the model it starts from
_C.TEST.PICTURES = True  # (ours) draw pictures that show people; False also removes those of an earlier evaluation

_C.OUTPUT_DIR = "output/run"  # folder of everything a run writes
_C.RESUME = "auto"  # (ours) auto: resume what was interrupted in OUTPUT_DIR | never: start over | another run's folder
_C.CHECKPOINT_MINUTES = 10.0  # (ours) save the state to resume from at each epoch's end and every so many minutes
_C.CHECKPOINTS_KEPT = 2  # (ours) how many of these states stay: the newest, and others in case it is damaged
