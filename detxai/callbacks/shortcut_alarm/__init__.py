"""The shortcut alarm: classes that are decided outside their boxes."""
