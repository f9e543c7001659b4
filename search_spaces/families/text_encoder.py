"""The family of text classifiers: students of BERT, MiniLM, DistilBERT, RoBERTa and ELECTRA.

The family is the door; shapes, inheritance, costs and Hugging Face files have a file of their own beside it.
"""

from collections.abc import Sequence

from search_spaces.families import encoder_costs
from search_spaces.families.encoder_hf import from_hf
from search_spaces.families.encoder_inherit import best_units, inherit, ranked_units
from search_spaces.families.encoder_model import EncoderConfig, TextEncoder
from search_spaces.families.encoder_shapes import Architecture, Mode, architecture_of, first_shapes, shape_space
from search_spaces.families.importance import Importance
from search_spaces.space import Genes, Space, Value

__all__ = ["Architecture", "Mode", "TextEncoderFamily"]


class TextEncoderFamily:
    """What students a text encoder has, what they cost and how they inherit; holds no state."""

    def load(self, model: str, labels: Sequence[str], revision: str | None = None) -> tuple[TextEncoder, bool]:
        """Return a teacher and whether it has a trained head; see `encoder_hf.from_hf`."""
        return from_hf(model, labels, revision)

    def space(self, teacher: EncoderConfig, mode: Mode) -> Space:
        """Return the genes of a teacher's students; see `encoder_shapes.shape_space`."""
        return shape_space(teacher, mode)

    def architecture(self, teacher: EncoderConfig, genes: Genes, mode: Mode) -> Architecture:
        """Return the student that the genes describe.

        Raises:
            ConfigError: A gene is unknown or missing, or its value is not a choice.
        """
        return architecture_of(teacher, genes, mode)

    def warm_start(self, teacher: EncoderConfig, mode: Mode) -> list[dict[str, Value]]:
        """Return the candidates a search begins with: the teacher's shape, the smallest, a ladder between them."""
        return first_shapes(teacher, mode)

    def widen(self, architecture: Architecture, teacher: EncoderConfig) -> Architecture:
        """Return the same layers, hidden width and rank with all heads and neurons: the start of gradual pruning."""
        fields = {
            "heads": [teacher.heads[layer] for layer in architecture.layers],
            "ffn": [teacher.ffn[layer] for layer in architecture.layers],
        }
        wide = EncoderConfig.from_json({**architecture.config.to_json(), **fields})
        return Architecture(architecture.layers, wide)

    def build(self, teacher: TextEncoder, architecture: Architecture, importance: Importance) -> TextEncoder:
        """Return a student with the teacher's most important units, in evaluation mode; the teacher is not changed.

        Raises:
            ConfigError: The student has more units of a kind than the teacher.
        """
        units = best_units(architecture.config, architecture.layers, importance)
        return inherit(teacher, architecture.config, units)

    def permute(self, teacher: TextEncoder, importance: Importance) -> TextEncoder:
        """Return the same function with every kind of unit in order of importance, best first; nothing is cut."""
        return inherit(teacher, teacher.config, ranked_units(importance))

    def features(self, config: EncoderConfig, n_tokens: int) -> dict[str, float]:
        """Return what latency at batch 1 is made of; see `encoder_costs.features`."""
        return encoder_costs.features(config, n_tokens)

    def macs(self, config: EncoderConfig, n_tokens: int) -> int:
        """Return the multiply-accumulates of one text."""
        return encoder_costs.macs(config, n_tokens)

    def parameters(self, config: EncoderConfig) -> int:
        """Return the number of weights, tables included."""
        return encoder_costs.parameters(config)
