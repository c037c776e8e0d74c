"""Part IV: training language models, one thin loop per method."""
