"""Studies: experiments over many seeds, recorded once and drawn by the chapters.

A study is a module here with a title (the first line of its docstring), ``SETTINGS`` (plain JSON
values), ``SEEDS`` (how many by default) and ``run(seed)``, a pure function of the seed and the
settings that returns measure → arm → number or list. ``rlbook study NAME`` runs it. A study that
trains models which the book ships also has ``MODELS``, their names, and ``run(seed, folder)``
writes them into the folder.
"""
