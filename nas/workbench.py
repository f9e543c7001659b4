"""What a worker derives from a bundle once and uses for every task: teacher, candidates, device, students.

Knows when each step of a candidate acts; not how students are trained or scored.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from compressors.base import Compressor, Run
from compressors.steps import TRAINED, Step, prefix_key
from nas.bundle import Bundle
from nas.candidates import Candidates
from nas.devices.base import Device, Format
from nas.devices.settings import open_device
from nas.prepare import measured_length
from nas.recipe import Recipe
from nas.spelling import tokenizer_from_json
from nas.stages import Corpus, State, apply_model_step, calibration_rows, runner
from search_spaces.families.encoder_model import EncoderConfig, TextEncoder
from search_spaces.families.importance import Importance
from search_spaces.families.text_encoder import Architecture

KEPT = 4  # untrained students after some steps; of a large teacher each is 90 MB


@dataclass(frozen=True)
class Plan:
    """The steps of one candidate by when they act.

    Attributes:
        before: Model steps before the training.
        training: Losses and training methods, which act together.
        after: Model steps after the training: those listed after it, and all that round.
        artefact: Methods that rewrite the exported model.
    """

    before: list[Step]
    training: list[Compressor]
    after: list[Step]
    artefact: list[Compressor]

    @classmethod
    def of(cls, steps: Sequence[Step]) -> "Plan":
        """Return the plan of steps in a recipe's order."""
        first = next((i for i, step in enumerate(steps) if step.stage in TRAINED), len(steps))
        is_before = [i < first and step.phase != "bits" for i, step in enumerate(steps)]
        model = [(step, early) for step, early in zip(steps, is_before, strict=True) if step.stage == "model"]
        return cls(
            [step for step, early in model if early],
            [step.bind() for step in steps if step.stage in TRAINED],
            [step for step, early in model if not early],
            [step.bind() for step in steps if step.stage == "artefact"],
        )


class Workbench:
    """What a worker derives from a bundle once and uses for every task: teacher, candidates, devices.

    Attributes:
        devices: By their names, see `Recipe.targets`.
        device: The first of them.
    """

    def __init__(self, bundle: Bundle) -> None:
        """Build the teacher from the bundle's arrays without copying them."""
        self.recipe = Recipe.model_validate(bundle.recipe)
        config = EncoderConfig.from_json(bundle.teacher_config)
        self.teacher = TextEncoder(config).eval()
        weights = {name: torch.from_numpy(np.array(array)) for name, array in bundle.teacher_weights.items()}
        self.teacher.load_state_dict(weights)
        self.importance = Importance.from_arrays(bundle.importance)
        self.candidates = Candidates(self.recipe, config)
        self.devices = {name: open_device(settings) for name, settings in self.recipe.targets.items()}
        self.device = next(iter(self.devices.values()))
        tokenizer = tokenizer_from_json(bundle.tokenizer) if bundle.tokenizer else None
        self.corpus = Corpus(bundle.train, tokenizer, min(self.recipe.data.max_length, config.n_positions))
        self.calibration = calibration_rows(bundle.train, self.recipe.search.seed)
        self.n_tokens = measured_length(self.recipe.device, bundle.validation)
        self._states: dict[str, State] = {}
        self._references: dict[Format, bytes] = {}

    @property
    def reference(self) -> bytes:
        """Return the teacher's file on the first device."""
        return self.reference_on(self.device)

    def reference_on(self, device: Device) -> bytes:
        """Return the teacher's file on a device, float32."""
        if device.format not in self._references:
            self._references[device.format] = device.export(self.teacher)
        return self._references[device.format]

    def runner(self, n_rows: int, state: State | None = None, device: Device | None = None) -> Run:
        """Return what runs an artefact on up to ``n_rows`` calibration rows, spelled as a student wants them.

        Args:
            n_rows: How many.
            state: The student; None: rows as the teacher wants them.
            device: Where; None: the first.
        """
        rows = self.calibration.subset(np.arange(min(n_rows, len(self.calibration))))
        return runner(device or self.device, rows if state is None else state.tokens(rows))

    def finish(self, state: State, plan: Plan) -> State:
        """Return a trained student after the model steps that follow its training; reports of the training come first.

        Raises:
            ConfigError: A step finds nothing it can compress.
        """
        state = replace(state, reports=(*state.reports, *(compressor.report() for compressor in plan.training)))
        for step in plan.after:
            state = apply_model_step(state, step.bind(), self.corpus, self.recipe.search.seed)
        return state

    def build(self, architecture: Architecture, steps: Sequence[Step] = ()) -> State:
        """Return an untrained student that inherits the teacher's most important units, after some model steps.

        What one candidate began with is kept for the next few, which often begin alike.
        """
        if not steps:
            return State(self.candidates.family.build(self.teacher, architecture, self.importance))
        key = prefix_key(steps, {"architecture": architecture.to_json()})
        if key not in self._states:
            state = self.build(architecture, steps[:-1])
            state = apply_model_step(state, steps[-1].bind(), self.corpus, self.recipe.search.seed)
            while len(self._states) >= KEPT:
                del self._states[next(iter(self._states))]
            self._states[key] = state
        return self._states[key]


_BENCHES: dict[str, Workbench] = {}


def workbench(bundle: Bundle) -> Workbench:
    """Return the worker's workbench for a bundle; only the latest is kept."""
    if bundle.fingerprint not in _BENCHES:
        _BENCHES.clear()
        _BENCHES[bundle.fingerprint] = Workbench(bundle)
    return _BENCHES[bundle.fingerprint]
