"""Whether a model is still what a shortcut was proved for, and what the caller has set around a call."""
