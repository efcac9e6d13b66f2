"""What a detector has learnt, asked of the detector as a whole and not of one box.

One sub-room for each question, and for each a command ``detxai concepts NAME`` in ``commands/concepts_NAME/``.
"""
