"""Every option: its type, default, range and meaning, in one place.

Hydra composes these defaults with the files in `configs/` and the command line, and pydantic checks
the result. `artgan COMMAND --help` prints what stands here.
"""

from dataclasses import field
from typing import Annotated, Any, Literal, get_args

from pydantic.dataclasses import dataclass
from pydantic.fields import FieldInfo
from typing_extensions import TypedDict

from artgan.values import (
    LARGEST_SEED,
    STRICT,
    Count,
    Device,
    Devices,
    Duration,
    Location,
    Precision,
    option,
)

# Metrics that choose the best checkpoint, and those of them that need a feature network.
Metric = Literal["kid", "fid", "swd"]
MONITORS: tuple[str, ...] = get_args(Metric)
ON_FEATURES = ("kid", "fid")
# Feature networks whose weights can be downloaded.
NAMED_FEATURES = ("inception", "squeezenet")
# Networks whose features describe content and style.
Backbone = Literal["vgg19", "vgg16", "vgg19_caffe", "vgg16_caffe", "squeezenet", "random"]
BACKBONES: tuple[str, ...] = get_args(Backbone)


@dataclass(config=STRICT, kw_only=True)
class DatasetConfig:
    """Where the paintings come from, and how they become squares."""

    source: Literal["inkwash", "folder", "archives", "huggingface"] = option(
        "folder", "where the paintings come from"
    )
    root: Location | None = option(None, "folder of the paintings, searched with its subfolders")
    flip: bool = option(True, "mirror at random; off for paintings with writing")
    crop: Literal["center", "random", "tiles"] = option(
        "center", "squares from a painting; random ones move every epoch"
    )
    border: Literal["keep", "trim"] = option("keep", "trim cuts off plain mounts and frames")
    deduplicate: bool = option(False, "use only one of several paintings that show the same")
    holdout: float = option(0.0, "share of the paintings set aside for measuring", ge=0, lt=1)
    default_epochs: int | None = option(650, "passes over the set if no budget is given", ge=1)
    default_max_time: Duration | None = option(None, "training time if no budget is given")
    address: str | None = option(None, "URL of the folder that holds the archives")
    archives: list[str] = option([], 'zip files there: "GIT_BLOB_SHA1 NAME", or NAME if unknown')
    only: list[str] = option([], "folders inside the archives to use; empty for all")
    largest: float = option(20.0, "largest download of one archive, in gigabytes", ge=0)
    insecure: bool = option(False, "allow downloads over http://, which can be tampered with")
    terms: str | None = option(None, "what the owners of the paintings allow; shown on download")
    repo: Location | None = option(None, "dataset on the Hugging Face hub, or a folder")
    split: str | None = option(None, "split of that dataset, such as train")
    column: str | None = option(None, "its column of images")
    label: str | None = option(None, "its column of classes, which become subfolders")
    streaming: bool = option(False, "download only what is chosen, not the whole dataset")
    artist: str | None = option(None, "use only this artist's works, if the dataset names artists")
    genre: str | None = option(None, "use only this genre, if the dataset names genres")
    style: str | None = option(None, "use only this style, if the dataset names styles")


@dataclass(config=STRICT, kw_only=True)
class ModelConfig:
    """The recipe: networks, losses, augmentation and optimisers."""

    conditional: bool = option(False, "learn each subfolder of the dataset as a class")
    latent_dim: int = option(100, "numbers in a latent vector", ge=1, le=2**16)
    width: int = option(64, "channels of the layer nearest the image", ge=1, le=2**12)
    network: str = option("dcgan", "generator and discriminator, see docs/extending.md")
    loss: str = option("bce", "bce, hinge, lsgan, wgan_gp, rpgan, see docs/recipes.md")
    label_smoothing: float = option(0.0, "the target for real images is 1 - this", ge=0, le=0.5)
    normalization: Literal["batch", "spectral", "none"] = option(
        "batch", "of the discriminator's layers"
    )
    minibatch_std: bool = option(False, "show D how much a batch varies")
    r1: float = option(0.0, "γ of the gradient penalty on real images", ge=0)
    r2: float = option(0.0, "γ of the gradient penalty on generated images", ge=0)
    gradient_penalty: float = option(0.0, "λ of the penalty in between, for wgan_gp", ge=0)
    penalty_every: int = option(1, "updates from one penalty to the next", ge=1)
    penalty_final: float = option(1.0, "share of r1 and r2 left at the end", ge=0, le=1)
    augment: list[str] = option([], "of all that D sees: color, translation, cutout")
    augment_probability: float = option(1.0, "probability of each augmentation", ge=0, le=1)
    augment_target: float | None = option(
        None, "adapt it until D's mean sign on real images is this", ge=0, le=1
    )
    learning_rate: float = option(2e-4, "of both Adam optimisers", ge=0, le=1e30)
    learning_rate_final: float = option(1.0, "share of it left at the end", ge=0, le=1)
    beta1: float = option(0.5, "decay of Adam's mean of gradients", ge=0, lt=1)
    beta2: float = option(0.999, "decay of Adam's mean of squared gradients", ge=0, lt=1)
    ema_half_life: float = option(10_000.0, "half-life of the average in images; 0: none", ge=0)
    ema_ramp: float = option(0.05, "the half-life is at most this share of the images seen", ge=0)


@dataclass(config=STRICT, kw_only=True)
class EvaluationConfig:
    """How a run is measured while it trains."""

    features: Location = option(
        "squeezenet", "inception, squeezenet, a file of their weights, or none"
    )
    num: Count = option(1000, "samples, and at most as many paintings of each part", ge=16)


@dataclass(config=STRICT, kw_only=True)
class CheckpointConfig:
    """When the run is saved."""

    every: Count = option(50_000, "images between two checkpoints", ge=1)
    keep: int = option(3, "newest checkpoints to keep; last.ckpt is always there", ge=1)
    monitor: Metric | None = option(None, "keep the state with the lowest as best.ckpt")


@dataclass(config=STRICT, kw_only=True)
class TrainerConfig:
    """What to train on."""

    accelerator: Device = option("auto", "what to train on")
    devices: Devices = option(1, "of each machine, or processes on a CPU; auto: all GPUs", ge=1)
    num_nodes: int = option(1, "machines; torchrun and srun set it themselves", ge=1)
    strategy: Literal["auto", "ddp"] = option(
        "auto", "ddp trains as several devices do, on one too"
    )
    precision: Precision = option("auto", "auto: bf16 where the hardware is faster")
    cuda_graph: bool = option(True, "on one GPU, record an update once and replay it")
    paintings: Literal["auto", "device", "file"] = option(
        "auto", "auto: on a GPU if they fill a quarter of it or less"
    )

    @property
    def processes(self) -> int:
        """One for each device of all machines."""
        return self.devices * self.num_nodes


@dataclass(config=STRICT, kw_only=True)
class TrainConfig:
    """Trains a GAN on paintings."""

    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    resolution: Literal[32, 64, 128, 256, 512] = option(64, "side of the images in pixels")
    autoencoder: Literal["none", "taef2"] = option(
        "none", "train on its latents instead of pixels; chosen by model=latent"
    )
    weights_dir: Location | None = option(
        None, "folder that holds the autoencoder's weights; null downloads them"
    )
    batch_size: int = option(64, "paintings in one update, over all devices", ge=1, le=2**20)
    epochs: int | None = option(None, "stop after this many passes over the paintings", ge=1)
    max_images: Count | None = option(None, "stop after this many images", ge=1)
    max_time: Duration | None = option(None, "stop after this time: 90s, 10m, 2h, 1h30m")
    seed: int = option(0, "same seed, settings and max_images: same run", ge=0, le=LARGEST_SEED)
    name: str | None = option(None, "run folder in output; by default date, time and dataset")
    resume: Location | None = option(None, "run folder to resume, with its own settings")
    output: Location = option("checkpoints", "folder of all runs, for tensorboard --logdir")
    log_every: Count = option(2500, "images between two points of the curves", ge=1)
    sample_every: Count = option(10_000, "images between two grids of samples", ge=1)
    evaluate_every: Count | None = option(None, "images between two measurements", ge=1)
    on_nan: Literal["stop", "rollback"] = option(
        "stop", "if a loss is not finite; at most 3 rollbacks"
    )
    evaluate: EvaluationConfig = field(default_factory=EvaluationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)


@dataclass(config=STRICT, kw_only=True)
class SampleConfig:
    """Paints with a trained generator."""

    ckpt: Location | None = option(None, "run folder, checkpoint or exported file")
    num: Count = option(64, "number of samples", ge=1, le=100_000)
    seed: int = option(0, "seed of the first sample; the next has seed + 1", ge=0, le=LARGEST_SEED)
    classes: list[str] = option([], "paint this class, or an equal mixture of several")
    out: Location | None = option(None, "folder to write to; by default beside the checkpoint")
    overwrite: bool = option(False, "replace existing files")
    scale: int = option(1, "enlarge what is painted this many times", ge=1, le=8)
    truncation: float = option(1.0, "below 1: less varied, often cleaner", ge=0, le=1)
    ema: bool = option(True, "paint with the averaged generator; false for the raw one")
    interpolate: int = option(0, "glide through this many seeds, as a GIF and an MP4", ge=0)
    frames: int = option(24, "frames from one seed to the next", ge=1)
    layout: Literal["single", "scroll"] = option("single", "squares, or one long scroll")
    length: float = option(20.0, "length of a scroll, in heights of the image", ge=1, le=1000)
    from_image: Location | None = option(None, "a sample: paint it again, bit for bit")
    device: Device = option("auto", "what to compute on")


def _partial(config: type) -> Any:
    """A dict of some of a configuration's options, each with its type and range."""
    fields: dict[str, FieldInfo] = config.__pydantic_fields__  # type: ignore[attr-defined]
    types = {
        name: Annotated[info.annotation, *info.metadata] if info.metadata else info.annotation
        for name, info in fields.items()
    }
    partial = TypedDict(f"Partial{config.__name__}", types, total=False)  # type: ignore[misc]
    partial.__pydantic_config__ = STRICT  # type: ignore[attr-defined]
    return partial


@dataclass(config=STRICT, kw_only=True)
class EvaluateConfig:
    """Measures how well a run paints."""

    ckpt: Location | None = option(None, "run folder or checkpoint")
    dataset: _partial(DatasetConfig) = option(  # type: ignore[valid-type]
        {}, "another set, or options of the run's own that change"
    )
    features: Location = option(
        "inception", "inception, squeezenet, a file of their weights, or none"
    )
    num: Count = option(2000, "samples, and at most as many paintings of each part", ge=16)
    seed: int = option(1_000_000, "seed of the first sample", ge=0, le=LARGEST_SEED)
    ema: bool = option(True, "measure the averaged generator; false for the raw one")
    out: Location | None = option(None, "folder to write to; by default beside the checkpoint")
    overwrite: bool = option(False, "replace existing files")
    device: Device = option("auto", "what to compute on")


@dataclass(config=STRICT, kw_only=True)
class CompareConfig:
    """Ranks runs and shows their samples side by side."""

    runs: list[Location] = option([], "run folders")
    by: Metric | None = option(None, "metric to rank by")
    out: Location | None = option(None, "page to write; by default beside the runs")
    overwrite: bool = option(False, "replace existing files")


@dataclass(config=STRICT, kw_only=True)
class ExportConfig:
    """Writes a trained generator as safetensors, to pass on."""

    ckpt: Location | None = option(None, "run folder or checkpoint")
    out: Location | None = option(
        None, "file ending in .safetensors; by default beside the checkpoint"
    )
    overwrite: bool = option(False, "replace existing files")


@dataclass(config=STRICT, kw_only=True)
class CheckConfig:
    """Reads every painting in a folder and reports what can be used."""

    root: Location = option(..., "folder of paintings, searched with its subfolders")


@dataclass(config=STRICT, kw_only=True)
class GatysConfig:
    """What only `method=gatys` reads."""

    init: Location = option("content", "start from content, noise, magenta, or an image file")
    precision: Precision = option("auto", "auto: bf16 where the hardware is faster")
    snapshot_every: int = option(0, "iterations between snapshots; 0 for none", ge=0)
    animation: bool = option(False, "write an MP4 of the snapshots")
    tensorboard: Location | None = option(None, "folder for TensorBoard's event files")
    preset: Literal["best", "adam", "keras", "gatys2016"] = option("best", "see docs/style.md")
    backbone: Backbone = option("vgg19", "network whose features are compared")
    losses: Literal["gatys", "udacity", "keras", "covariance"] = option("covariance", "formulas")
    content_layers: list[str] = option(["relu4_2"], "named as in the papers")
    content_weight: float = option(4.0, "of the content loss", ge=0)
    style_layers: list[str] = option([f"relu{n}_1" for n in range(1, 6)], "from fine to coarse")
    style_layer_weights: list[float] = option([16.0, 8.0, 4.0, 2.0, 1.0], "of each style layer")
    style_weight: float = option(1.0, "of the style loss", ge=0)
    total_variation: float = option(20.0, "weight of the loss that smooths", ge=0)
    style_shape: Literal["own", "content"] = option("own", "content stretches each painting to it")
    pooling: Literal["max", "average"] = option("max", "of the backbone")
    border: Literal["replicate", "zeros"] = option("replicate", "around the image, in the backbone")
    optimizer: Literal["adam", "lbfgs", "torch_lbfgs"] = option("adam", "or torch's own steps")
    learning_rate: float = option(0.02, "of Adam; white is 1", ge=0, le=1)
    iterations: int = option(200, "evaluations of loss and gradient on each scale", ge=1)
    first_size: int | None = option(128, "long side of the first scale", ge=16, le=2**16)
    scale_step: float = option(2**0.5, "factor from one scale to the next", ge=1.1, le=16)
    averaging: float = option(0.95, "decay of the average of the iterates; 0: none", ge=0, lt=1)


@dataclass(config=STRICT, kw_only=True)
class StylizeConfig(GatysConfig):
    """Repaints a photo like a painting."""

    content: Any = option(..., "photo, list of photos, or folder of photos")
    style: Any = option(..., "painting, list of paintings, folder of paintings, or run")
    out: Location | None = option(None, "file (.png .jpg .tif .webp), or folder for several")
    overwrite: bool = option(False, "replace existing files")
    size: int | None = option(None, "long side in pixels; the photo's own if null", ge=16, le=2**16)
    style_size: int | None = option(None, "long side each painting is resized to", ge=16, le=2**16)
    weights: list[float] = option([], "weight of each painting; equal if empty")
    gallery: bool = option(False, "repaint every photo in every style, and one overview")
    color: Literal["style", "content"] = option("style", "content keeps the photo's colours")
    mask: Any = option(None, "image, or one for each style: white is repainted, black stays")
    tile: int | None = option(None, "side of the tiles of a large image in pixels", ge=128)
    seed: int = option(0, "seed of all that is random", ge=0, le=LARGEST_SEED)
    weights_dir: Location | None = option(
        None, "file or folder of the weights; null downloads them"
    )
    device: Device = option("auto", "what to compute on")
    method: Literal["magenta", "gatys"] = option("magenta", "at once, or step by step")
    strength: float = option(1.0, "0 keeps the photo's style, 1 takes the painting's", ge=0, le=1)


@dataclass(config=STRICT, kw_only=True)
class Recipe:
    """How a sample was painted; kept in its PNG."""

    kind: Literal["single", "grid", "scroll"] = option(..., "of image")
    seed: int = option(..., "seed of the sample, or of the first in a grid", ge=0, le=2**53)
    truncation: float = option(..., "of the latents", ge=0, le=1)
    ema: bool = option(..., "averaged generator, or the raw one")
    num: int = option(..., "samples in a grid", ge=1, le=100_000)
    length: float = option(..., "of a scroll, in its heights", ge=1, le=1000)
    scale: int = option(1, "times enlarged", ge=1, le=8)
    classes: list[str] = option(..., "mixed in equal parts; empty if the seed decides")


SCHEMAS: dict[str, Any] = {  # by the name of the command
    "train": TrainConfig,
    "sample": SampleConfig,
    "evaluate": EvaluateConfig,
    "compare": CompareConfig,
    "export": ExportConfig,
    "stylize": StylizeConfig,
    "check": CheckConfig,
}
