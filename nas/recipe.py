"""The recipe of a search: what a person writes in YAML, what the command line sets, what the engine reads.

One frozen pydantic model a section; unknown keys are errors. Loading files is `launch`'s business.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from search_spaces.errors import ConfigError

Gene = bool | int | float | str


class Section(BaseModel):
    """A part of the recipe; immutable, and strict about its keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class FineTuneSettings(Section):
    """How a base model without a head becomes the teacher."""

    epochs: float = Field(3.0, gt=0, description="passes over the training split; fractions allowed")
    lr: float = Field(5e-5, gt=0, description="peak learning rate of AdamW")
    batch_size: int = Field(32, ge=1)


class TeacherSettings(Section):
    """The model to make students of."""

    model: str = Field("builtin:minilm", description="local folder, Hugging Face hub id, or builtin:minilm")
    revision: str | None = Field(None, description="hub revision to pin")
    finetune: FineTuneSettings | None = Field(None, description="set when the model has no trained head yet")


class DataSettings(Section):
    """Where texts and labels come from; the search trains on train, scores on validation, reports test."""

    source: str = Field("docstrings", description="builtin name, local csv/tsv/jsonl/parquet (.gz too), or hub id")
    text: tuple[str, ...] = Field(("text",), min_length=1, max_length=2, description="one or two text columns")
    label: str = Field("label", description="label column: integers 0..n-1 or names")
    validation: str | None = Field(None, description="file or hub split; None takes validation_share of train")
    test: str | None = Field(None, description="file or hub split, scored once for the finalists")
    validation_share: float = Field(0.1, gt=0, lt=1)
    max_length: int = Field(128, ge=4, le=512, description="tokens per row, longer rows are cut")
    max_train: int | None = Field(None, ge=1, description="use at most this many training rows")


class DeviceSettings(Section):
    """The device students are measured on, and how it is used in production."""

    name: str = Field(
        "cpu", pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$", description="of the device; nas_device:NAME is its Ray resource"
    )
    backend: str = Field("onnxruntime", description="row of the table of backends; left out, it is that of the name")
    options: dict[str, Any] = Field(default_factory=dict, description="options of the backend")
    threads: int = Field(1, ge=1)
    batch: int = Field(1, ge=1)
    tokens: int | None = Field(None, ge=2, description="sequence length; None takes the validation median")
    mix: dict[int, float] | None = Field(
        None, min_length=1, description="several sequence lengths with their weights, instead of tokens"
    )
    affinity: tuple[int, ...] | None = Field(
        None, min_length=1, description="processors to measure on; None: the idlest, one a thread"
    )
    note: str = Field("", max_length=200, description="what else a reader must know, e.g. the power mode")

    @model_validator(mode="before")
    @classmethod
    def _read_name(cls, told: Any) -> Any:
        """Take a name alone as settings that say no more."""
        return {"name": told} if isinstance(told, str) else told

    @model_validator(mode="after")
    def _check_calls(self) -> "DeviceSettings":
        """Refuse two answers to one question, and weights or processors that mean nothing."""
        if self.mix is not None and self.tokens is not None:
            raise ConfigError(f"tokens {self.tokens} and a mix of {len(self.mix)} lengths; give one of them")
        if self.mix is not None and (min(self.mix) < 2 or min(self.mix.values()) <= 0):
            raise ConfigError(f"mix {self.mix}: lengths are at least 2 and weights above 0")
        if self.affinity is not None and not (min(self.affinity) >= 0 and self.threads <= len(set(self.affinity))):
            listed = ", ".join(map(str, self.affinity))
            raise ConfigError(f"affinity {listed}: {self.threads} threads need as many processors, counted from 0")
        return self


class SpaceSettings(Section):
    """Which students exist."""

    family: str = "text_encoder"
    mode: Literal["uniform", "per_layer"] = "uniform"
    genes: dict[str, tuple[Gene, ...]] = Field(default_factory=dict, description="narrow a gene to these values")


class TrainSettings(Section):
    """One distillation run."""

    epochs: float = Field(1.0, gt=0, description="passes over the training split; fractions allowed")
    share: float = Field(1.0, gt=0, le=1, description="share of the training rows to learn from, the same every epoch")
    lr: float = Field(3e-4, gt=0, description="peak learning rate of AdamW")
    gentle: bool = Field(True, description="lower the rate of a student that begins near its teacher, to a tenth")
    batch_size: int = Field(32, ge=1)
    warmup: float = Field(0.1, ge=0, lt=1, description="share of steps with a rising learning rate")
    weight_decay: float = Field(0.01, ge=0)
    patience: int | None = Field(
        None, ge=1, description="end early: looks at rows kept apart, four an epoch, that may pass without a lower loss"
    )
    train_embeddings: bool = False
    precision: Literal["auto", "fp32", "bf16"] = "auto"


class FidelitySettings(Section):
    """Successive halving: students are trained in steps, and after each step only the best go on."""

    rungs: tuple[float, ...] = Field(
        (0.1, 0.3, 1.0), min_length=2, description="shares of the training, the last is 1; 0 judges it untrained"
    )
    eta: float = Field(3.0, gt=1, description="one in eta goes on")
    buckets: int = Field(3, ge=1, description="latency ranges within which students compete")

    @field_validator("rungs")
    @classmethod
    def _check_rungs(cls, rungs: tuple[float, ...]) -> tuple[float, ...]:
        """Refuse rungs that do not lead from the beginning of a training to its end."""
        is_ascending = all(low < high for low, high in pairwise(rungs))
        if not is_ascending or rungs[0] < 0 or rungs[-1] != 1:
            words = ", ".join(f"{rung:g}" for rung in rungs)
            raise ConfigError(f"{words} do not lead up to 1; write ascending shares of the training, e.g. 0, 0.3, 1")
        return rungs


class SearchSettings(Section):
    """How the space is searched."""

    strategy: str = "predictor"
    options: dict[str, Any] = Field(default_factory=dict, description="options of the strategy")
    trials: int = Field(24, ge=1, description="students to train")
    minutes: float | None = Field(None, gt=0, description="begin no student after this long; None: trials alone count")
    seed: int = Field(0, ge=0)
    profile_shapes: int = Field(32, ge=4, description="untrained students measured before the search")
    reuse_profile: bool = Field(True, description="use what nas devices profile has measured, where it still holds")
    warm_start: bool = Field(True, description="begin with teacher shape, smallest, and a ladder of uniform shapes")
    knapsack: bool = Field(False, description="then shapes of least summed damage at a latency; up to a minute")
    train: TrainSettings = TrainSettings(epochs=1.0)
    tolerance: float = Field(
        0.05, ge=0, lt=1, description="share by which a student, trained briefly here, may miss a bound on accuracy"
    )
    fidelity: FidelitySettings | None = Field(None, description="stop bad students early; None trains all in full")
    trial_timeout_s: float = Field(3600.0, gt=0)

    @model_validator(mode="after")
    def _check_patience(self) -> "SearchSettings":
        """Refuse a training whose end is not known to be cut into parts."""
        if self.fidelity is not None and self.train.patience is not None:
            raise ConfigError(
                f"train.patience {self.train.patience} and fidelity do not go together: rungs are shares of a training "
                "whose length is known; set one of them to null"
            )
        return self


class FinalizeSettings(Section):
    """What happens to the best of the front."""

    finalists: int = Field(3, ge=1, description="of the front; with several devices of each device's front")
    seeds: int = Field(3, ge=1)
    starts: int = Field(3, ge=1, le=20, description="processes that each finalist is measured in, one after the other")
    train: TrainSettings = TrainSettings(epochs=3.0)


class TrackingSettings(Section):
    """Where the runs are mirrored to."""

    mlflow: bool = True
    uri: str | None = Field(None, description="None: MLFLOW_TRACKING_URI, else SQLite in the run folder")
    experiment: str = "prentice"


class ClusterSettings(Section):
    """Where trials run."""

    executor: Literal["ray", "inprocess"] = "ray"
    address: str | None = Field(None, description="Ray cluster; None: RAY_ADDRESS, else a local Ray")
    allow_unauthenticated: bool = Field(False, description="join another machine's Ray though RAY_AUTH_MODE is off")
    cpus_per_trial: int = Field(1, ge=1)
    gpus_per_trial: float = Field(0.0, ge=0)
    max_parallel: int | None = Field(None, ge=1, description="None: as many as the cluster holds")


class Recipe(Section):
    """Everything one search needs; every key has a default that works."""

    name: str = Field("search", pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    teacher: TeacherSettings = TeacherSettings()
    data: DataSettings = DataSettings()
    device: DeviceSettings = Field(DeviceSettings(), description="of several devices the first")
    devices: tuple[DeviceSettings, ...] = Field(
        (), description="instead of device: a student is trained once, and measured on each of them"
    )
    space: SpaceSettings = SpaceSettings()
    compress: dict[str, dict[str, Gene]] = Field(
        {
            "distillation": {"alpha": 0.1, "temperature": 2.0, "hidden": 0.0, "live": False},
            "structured_pruning": {},
            "int8": {},
        },
        description="compressors in order; a knob given here is fixed, every other knob is searched",
    )
    or_compress: tuple[dict[str, dict[str, Gene]], ...] = Field(
        (), description="other lists like compress; the search chooses between all of them"
    )
    objectives: tuple[str, ...] = Field(("accuracy", "latency_ms"), min_length=1)
    constraints: tuple[str, ...] = ()
    search: SearchSettings = SearchSettings()
    finalize: FinalizeSettings = FinalizeSettings()
    tracking: TrackingSettings = TrackingSettings()
    cluster: ClusterSettings = ClusterSettings()

    @model_validator(mode="before")
    @classmethod
    def _read_devices(cls, told: Any) -> Any:
        """Keep the first of several devices as the device, too; a list of one is that device."""
        devices = told.get("devices") if isinstance(told, dict) else None
        if not devices or not isinstance(devices, Sequence) or isinstance(devices, str):
            return told
        if "device" in told:
            raise ConfigError(f"device and a list of {len(devices)} devices are given; give one of the two keys")
        rest = {key: value for key, value in told.items() if key != "devices"}
        return {**rest, "device": devices[0], **({"devices": devices} if len(devices) > 1 else {})}

    @field_validator("devices")
    @classmethod
    def _check_devices(cls, devices: tuple[DeviceSettings, ...]) -> tuple[DeviceSettings, ...]:
        """Refuse two devices of one name."""
        names = [device.name for device in devices]
        if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
            raise ConfigError(f"{twice[0]!r} stands there twice; give each device a name of its own")
        return devices

    @model_serializer(mode="wrap")
    def _write_devices(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Write one of the two keys, as they are read."""
        written: dict[str, Any] = write(self)
        written.pop("device" if self.devices else "devices", None)
        return written

    @property
    def targets(self) -> dict[str, DeviceSettings]:
        """Return the devices by the names that tell them apart; that of a single one is empty."""
        return {device.name: device for device in self.devices} or {"": self.device}

    def on(self, devices: Sequence[DeviceSettings]) -> "Recipe":
        """Return the recipe for other devices, at least one."""
        return self.model_copy(update={"device": devices[0], "devices": tuple(devices) if len(devices) > 1 else ()})
