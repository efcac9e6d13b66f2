"""What a channel, or a class, wants to see; and the fewest channels that keep a box."""

from detxai.concepts.channels.examples import Example, strongest_examples
from detxai.concepts.channels.important import important_channels
from detxai.concepts.channels.layer_pass import Channel
from detxai.concepts.channels.receptive_field import ReceptiveField, receptive_field
from detxai.concepts.channels.sufficient import SufficientChannels, sufficient_channels
from detxai.concepts.channels.visualise import FeatureVisualisation

__all__ = [
    "Channel",
    "Example",
    "FeatureVisualisation",
    "ReceptiveField",
    "SufficientChannels",
    "important_channels",
    "receptive_field",
    "strongest_examples",
    "sufficient_channels",
]
