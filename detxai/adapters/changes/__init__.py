"""Whether somebody changed a model so that a shortcut no longer holds, and which torch modes the caller has set."""
