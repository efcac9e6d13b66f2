"""Which few concepts does a detector use, and how much does each matter to each class?

``run.find_concepts`` goes through the data set twice. ``samples`` draws features at cells that matter to the boxes,
``mixture_fit`` clusters them, ``box_records`` removes each concept for every box, ``summary`` says what that means for
each class, and ``report`` makes the page. What is finished is kept in ``folder``.
"""
